package imaging

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// openBMP reads uncompressed bitmaps of 1, 4, 8, 24 and 32 bits.
func openBMP(f *file) (Config, decode, error) {
	b := f.data
	le := binary.LittleEndian
	if len(b) < 26 {
		return Config{}, nil, f.broken("header", "has %d bytes, want at least 26", len(b))
	}
	offset, headerLen := uint64(le.Uint32(b[10:])), uint64(le.Uint32(b[14:]))
	var width, height, depth, colours int
	compression, entry := uint32(0), 4
	switch {
	case headerLen == 12: // OS/2: 16-bit sizes, palette entries of three bytes
		width, height, depth, entry = int(le.Uint16(b[18:])), int(int16(le.Uint16(b[20:]))), int(le.Uint16(b[24:])), 3
	case headerLen >= 40 && headerLen <= 124:
		if uint64(len(b)) < 14+headerLen {
			return Config{}, nil, f.broken("header", "needs %d bytes, the file has %d", 14+headerLen, len(b))
		}
		width, height, depth = int(int32(le.Uint32(b[18:]))), int(int32(le.Uint32(b[22:]))), int(le.Uint16(b[28:]))
		compression, colours = le.Uint32(b[30:]), int(le.Uint32(b[46:]))
	default:
		return Config{}, nil, f.unsupported("header", "of %d bytes, want 12 or 40 to 124", headerLen)
	}
	topDown := height < 0
	if topDown {
		height = -height
	}
	mode := fmt.Sprintf("palette%d", depth)
	switch depth {
	case 1, 4, 8:
		if colours == 0 {
			colours = 1 << depth
		}
		if colours > 1<<depth {
			return Config{}, nil, f.broken("palette", "%d colours for %d bits a pixel", colours, depth)
		}
	case 24, 32:
		mode, colours = map[int]string{24: "RGB8", 32: "RGBA8"}[depth], 0
	default:
		return Config{}, nil, f.unsupported("depth", "%d bits a pixel, want 1, 4, 8, 24 or 32", depth)
	}
	// Channel masks: three of them after a 40-byte header, inside longer ones.
	shift := [3]int{16, 8, 0}
	paletteAt := 14 + headerLen
	switch {
	case compression == 0:
	case compression == 3 && depth == 32 && uint64(len(b)) >= 66:
		for c := range shift {
			m := le.Uint32(b[54+4*c:])
			shift[c] = bits.TrailingZeros32(m)
			if m != 0xff<<(shift[c]&31) {
				return Config{}, nil, f.unsupported("channel mask", "%#08x, want eight bits in a row", m)
			}
		}
	default:
		return Config{}, nil, f.unsupported("compression", "type %d, want none", compression)
	}
	if err := f.checkSize(width, height, float64(depth), 1); err != nil {
		return Config{}, nil, err
	}
	stride := (uint64(width)*uint64(depth) + 31) / 32 * 4
	need := offset + stride*uint64(height)
	if paletteEnd := paletteAt + uint64(colours*entry); paletteEnd > uint64(len(b)) {
		return Config{}, nil, f.broken("palette", "ends at byte %d, the file has %d", paletteEnd, len(b))
	}
	if need > uint64(len(b)) {
		return Config{}, nil, f.broken("pixels", "%dx%d end at byte %d, the file has %d", width, height, need, len(b))
	}
	c := Config{Width: width, Height: height, Mode: mode}
	return c, func() (*RGB, error) {
		var table [256][3]uint8
		for i := range colours {
			p := b[paletteAt+uint64(i*entry):]
			table[i] = [3]uint8{p[2], p[1], p[0]}
		}
		out := NewRGB(width, height)
		indices := make([]uint8, width)
		for y := range height {
			at := y
			if !topDown {
				at = height - 1 - y
			}
			src, dst := b[offset+uint64(at)*stride:][:stride], out.Row(y)
			switch depth {
			case 24:
				for x := range width {
					dst[3*x], dst[3*x+1], dst[3*x+2] = src[3*x+2], src[3*x+1], src[3*x]
				}
			case 32:
				for x := range width {
					v := le.Uint32(src[4*x:])
					dst[3*x], dst[3*x+1], dst[3*x+2] = uint8(v>>shift[0]), uint8(v>>shift[1]), uint8(v>>shift[2])
				}
			default:
				unpackBits(indices, src, depth)
				paletteRow(dst, indices, &table)
			}
		}
		return out, nil
	}, nil
}

// unpackBits spreads samples of 1, 2, 4 or 8 bits, highest bits first, one to a byte.
func unpackBits(dst, src []uint8, depth int) {
	if depth == 8 {
		copy(dst, src)
		return
	}
	mask := uint8(1<<depth - 1)
	for i := range dst {
		bit := i * depth
		dst[i] = src[bit/8] >> (8 - depth - bit%8) & mask
	}
}
