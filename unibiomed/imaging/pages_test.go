package imaging

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
)

// pagedTIFF has a page of one grey pixel for each level. last is where the last directory says that the next one is.
func pagedTIFF(last uint32, levels ...byte) []byte {
	b := []byte("II*\x00\x08\x00\x00\x00")
	for i, level := range levels {
		entries := [][3]uint32{{256, 3, 1}, {257, 3, 1}, {258, 3, 8}, {259, 3, 1}, {262, 3, 1}, {273, 4, 0}, {277, 3, 1}, {278, 3, 1}, {279, 4, 1}}
		pixel := uint32(len(b) + 2 + 12*len(entries) + 4)
		b = binary.LittleEndian.AppendUint16(b, uint16(len(entries)))
		for _, e := range entries {
			if e[0] == 273 {
				e[2] = pixel
			}
			b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
			b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
			b = binary.LittleEndian.AppendUint32(b, 1)
			b = binary.LittleEndian.AppendUint32(b, e[2])
		}
		next := pixel + 2
		if i == len(levels)-1 {
			next = last
		}
		b = binary.LittleEndian.AppendUint32(b, next)
		b = append(b, level, 0)
	}
	return b
}

func TestPagesOfTIFF(t *testing.T) {
	for name, last := range map[string]uint32{"whole": 0, "a circle": 8, "beyond the end": 1 << 31} {
		t.Run(name, func(t *testing.T) {
			b := pagedTIFF(last, 10, 20, 30)
			for page, level := range []uint8{10, 20, 30} {
				c, err := DecodeConfig(bytes.NewReader(b), Options{Page: page})
				require.NoError(t, err)
				require.Equal(t, 3, c.Pages)
				m, err := Decode(bytes.NewReader(b), Options{Page: page})
				require.NoError(t, err)
				require.Equal(t, []uint8{level, level, level}, m.Pix)
			}
			for _, page := range []int{-1, 3} {
				_, err := Decode(bytes.NewReader(b), Options{Page: page})
				require.ErrorContains(t, err, "0 to 2")
			}
		})
	}
	_, err := Decode(bytes.NewReader([]byte("GIF89a")), Options{Page: 1})
	require.Error(t, err)
}
