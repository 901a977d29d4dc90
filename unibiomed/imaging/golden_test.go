package imaging_test

import (
	"crypto/sha256"
	"encoding/hex"
	"image/png"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
	"github.com/unibiomed/go-unibiomed/unibiomed/internal/golden"
)

// TestConvertAsReference compares every file with Pillow 10.2's convert("RGB"): exactly, and JPEG within the two levels
// that its inverse transforms may differ by.
func TestConvertAsReference(t *testing.T) {
	var index struct {
		Cases []struct {
			File     string
			Expected string
			Size     [2]int
			Sum      string `json:"sha256_rgb_bytes"`
		}
	}
	golden.JSON(t, &index, "golden", "preprocess", "convert", "index.json")
	require.Len(t, index.Cases, 34)
	for _, c := range index.Cases {
		t.Run(c.File, func(t *testing.T) {
			got, err := imaging.DecodeFile(golden.Path(t, "golden", "preprocess", c.File), imaging.Options{Grey16: imaging.Clip})
			require.NoError(t, err)
			require.Equal(t, c.Size, [2]int{got.Width, got.Height})
			if !strings.HasSuffix(c.File, ".jpg") {
				sum := sha256.Sum256(got.Pix)
				require.Equal(t, c.Sum, hex.EncodeToString(sum[:]))
				return
			}
			h, err := os.Open(golden.Path(t, "golden", "preprocess", c.Expected))
			require.NoError(t, err)
			defer h.Close()
			img, err := png.Decode(h)
			require.NoError(t, err)
			want, err := imaging.FromImage(img)
			require.NoError(t, err)
			worst := 0
			for i, v := range want.Pix {
				worst = max(worst, int(v)-int(got.Pix[i]), int(got.Pix[i])-int(v))
			}
			t.Logf("largest difference: %d levels", worst)
			require.LessOrEqual(t, worst, 2)
		})
	}
}
