package dicom

import "encoding/binary"

// decodeRLE decodes one frame of RLE Lossless (PS3.5 Annex G) to interleaved little-endian samples. size is the bytes of a
// sample.
func decodeRLE(b []byte, pixels, samples, size int) ([]byte, error) {
	if len(b) < 64 {
		return nil, broken("RLE header", "got %d bytes, want 64", len(b))
	}
	n := int(binary.LittleEndian.Uint32(b))
	if n != samples*size {
		return nil, broken("RLE header", "got %d segments, want %d for %d samples of %d bytes", n, samples*size, samples, size)
	}
	if n > 15 {
		return nil, broken("RLE header", "got %d segments, want at most 15", n)
	}
	// A pair of bytes makes 128 at most.
	if int64(pixels)*int64(n) > 64*int64(len(b)) {
		return nil, broken("RLE data", "%d bytes cannot hold %d samples of %d bytes", len(b), pixels*samples, size)
	}
	out := make([]byte, pixels*n)
	for s := range n {
		start, end := int64(binary.LittleEndian.Uint32(b[4+4*s:])), int64(len(b))
		if s+1 < n {
			end = int64(binary.LittleEndian.Uint32(b[8+4*s:]))
		}
		if start < 64 || end < start || end > int64(len(b)) {
			return nil, broken("RLE header", "segment %d is bytes %d to %d of %d", s, start, end, len(b))
		}
		// Segments hold the bytes of a sample from the most significant one down.
		at := s/size*size + size - 1 - s%size
		if got := unpackBits(b[start:end], out, at, n); got != pixels {
			return nil, broken("RLE data", "segment %d holds %d bytes, want %d", s, got, pixels)
		}
	}
	return out, nil
}

// unpackBits writes the unpacked bytes of src to dst[at], dst[at+step] and so on while there is room, and returns their number.
func unpackBits(src, dst []byte, at, step int) int {
	n := 0
	for len(src) > 0 && at < len(dst) {
		code := int8(src[0])
		src = src[1:]
		switch {
		case code >= 0:
			for _, x := range src[:min(int(code)+1, len(src))] {
				if at >= len(dst) {
					break
				}
				dst[at] = x
				at += step
				n++
			}
			src = src[min(int(code)+1, len(src)):]
		case code != -128 && len(src) > 0:
			for range 1 - int(code) {
				if at >= len(dst) {
					break
				}
				dst[at] = src[0]
				at += step
				n++
			}
			src = src[1:]
		}
	}
	return n
}
