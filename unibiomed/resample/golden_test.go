package resample_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
	"github.com/unibiomed/go-unibiomed/unibiomed/internal/golden"
	"github.com/unibiomed/go-unibiomed/unibiomed/resample"
)

func TestCubicAsPillow(t *testing.T) {
	var index struct {
		Cases []struct {
			Src, Dst      string
			Width, Height int
		}
		Whole []struct {
			Image         string
			Width, Height int
			Sum           string `json:"sha256_rgb_bytes"`
		} `json:"whole_images"`
	}
	golden.JSON(t, &index, "golden", "preprocess", "resize", "index.json")
	tensors := golden.Tensors(t, "golden", "preprocess", "resize", "pillow_resize.safetensors")
	require.Len(t, index.Cases, 295)
	require.Len(t, index.Whole, 48)
	for _, c := range index.Cases {
		x := tensors[c.Src]
		src := &imaging.RGB{Width: x.Shape[1], Height: x.Shape[0], Pix: x.Data}
		for _, workers := range []int{1, 3} {
			got, err := resample.Cubic(src, c.Width, c.Height, workers)
			require.NoError(t, err, c.Dst)
			require.True(t, bytes.Equal(tensors[c.Dst].Data, got.Pix), "%s with %d workers differs", c.Dst, workers)
		}
	}
	images := map[string]*imaging.RGB{}
	for _, c := range index.Whole {
		src := images[c.Image]
		if src == nil {
			var err error
			src, err = imaging.DecodeFile(golden.Path(t, c.Image), imaging.Options{})
			require.NoError(t, err)
			images[c.Image] = src
		}
		got, err := resample.Cubic(src, c.Width, c.Height, 0)
		require.NoError(t, err)
		sum := sha256.Sum256(got.Pix)
		require.Equal(t, c.Sum, hex.EncodeToString(sum[:]), "%s to %dx%d", c.Image, c.Width, c.Height)
	}
}

func TestMaskAsPyTorch(t *testing.T) {
	var index struct {
		Cases []struct {
			ID            int
			Logits, Mask  string
			Width, Height int
			Rows          []int
		}
	}
	golden.JSON(t, &index, "golden", "preprocess", "mask_resize.json")
	tensors := golden.Tensors(t, "golden", "preprocess", "mask_resize.safetensors")
	for _, c := range index.Cases {
		t.Run(fmt.Sprintf("%dx%d", c.Width, c.Height), func(t *testing.T) {
			logits := tensors[c.Logits].F32(t)
			want := tensors[fmt.Sprintf("rows.%d", c.ID)].F32(t)
			worst, next := 0.0, 0
			err := resample.MaskRows(logits, 256, 1024, c.Width, c.Height, func(y int, values []float32) {
				if next < len(c.Rows) && c.Rows[next] == y {
					for x, v := range values {
						worst = max(worst, math.Abs(float64(v-want[next*c.Width+x])))
					}
					next++
				}
			})
			require.NoError(t, err)
			require.Equal(t, len(c.Rows), next)
			// Both sides are f32; the order of additions may differ in the last bits of values up to 20.
			require.LessOrEqual(t, worst, 1e-5)

			got, err := resample.Mask(logits, 256, 1024, c.Width, c.Height, 2)
			require.NoError(t, err)
			file, err := imaging.DecodeMaskFile(golden.Path(t, "golden", "preprocess", c.Mask), imaging.Options{})
			require.NoError(t, err)
			different := 0
			for i, v := range file.Pix {
				if (v != 0) != (got.Pix[i] != 0) {
					different++
				}
			}
			t.Logf("largest difference %.2g, %d pixels differ", worst, different)
			require.Zero(t, different)
		})
	}
}

func TestCellsAsReference(t *testing.T) {
	var index struct {
		Cases []struct {
			ID    int
			Files []string
		}
	}
	golden.JSON(t, &index, "golden", "preprocess", "mask_prompts.json")
	tensors := golden.Tensors(t, "golden", "preprocess", "mask_prompts.safetensors")
	for _, c := range index.Cases {
		want := tensors[fmt.Sprintf("cells.%d", c.ID)]
		require.Equal(t, []int{len(c.Files), 16, 16}, want.Shape)
		for k, file := range c.Files {
			m, err := imaging.DecodeMaskFile(golden.Path(t, "golden", "preprocess", file), imaging.Options{})
			require.NoError(t, err)
			for i, inside := range resample.Cells(m, 16) {
				if (want.Data[256*k+i] != 0) != inside {
					t.Errorf("%s, cell %d: got %v", file, i, inside)
				}
			}
		}
	}
}
