package half

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestEveryHalfSurvivesARoundTrip(t *testing.T) {
	for i := range 1 << 16 {
		h := uint16(i)
		if f := FromF16(h); f == f {
			require.Equal(t, h, ToF16(f), "f16 %#04x", h)
		} else {
			require.True(t, math.IsNaN(float64(FromF16(ToF16(f)))))
		}
		if f := FromBF16(h); f == f {
			require.Equal(t, h, ToBF16(f), "bf16 %#04x", h)
		} else {
			require.True(t, math.IsNaN(float64(FromBF16(ToBF16(f)))))
		}
	}
}

func TestRounding(t *testing.T) {
	tests := []struct {
		name      string
		f         float32
		f16, bf16 uint16
	}{
		{"one", 1, 0x3c00, 0x3f80},
		{"minus zero", float32(math.Copysign(0, -1)), 0x8000, 0x8000},
		{"tie goes to even, down", 1 + 0x1p-11, 0x3c00, 0x3f80},
		{"tie goes to even, up", 1 + 3*0x1p-11, 0x3c02, 0x3f80},
		{"bf16 tie goes to even, up", 1 + 3*0x1p-8, 0x3c0c, 0x3f82},
		{"largest f16", 65504, 0x7bff, 0x4780},
		{"just below the f16 overflow", 65519.99, 0x7bff, 0x4780},
		{"f16 overflow", 65520, 0x7c00, 0x4780},
		{"smallest f16", 0x1p-24, 0x0001, 0x3380},
		{"half of it goes to zero", 0x1p-25, 0x0000, 0x3300},
		{"largest f16 subnormal rounds up to a normal", 0x1p-14 - 0x1p-26, 0x0400, 0x3880},
		{"infinity", float32(math.Inf(1)), 0x7c00, 0x7f80},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.f16, ToF16(tt.f), "f16 %#04x", ToF16(tt.f))
			require.Equal(t, tt.bf16, ToBF16(tt.f), "bf16 %#04x", ToBF16(tt.f))
		})
	}
}

func TestRoundsToNearest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := rapid.Float32Range(-65504, 65504).Draw(t, "f")
		h := ToF16(f)
		err := math.Abs(float64(FromF16(h)) - float64(f))
		for _, n := range []uint16{h - 1, h + 1} {
			if n&0x7c00 != 0x7c00 && n&0x8000 == h&0x8000 {
				require.LessOrEqual(t, err, math.Abs(float64(FromF16(n))-float64(f)))
			}
		}
	})
}
