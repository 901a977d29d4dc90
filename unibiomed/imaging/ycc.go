package imaging

// A plane is one channel of a picture, Width x Height samples in rows of Stride.
type plane struct {
	pix                   []uint8
	width, height, stride int
}

func (p plane) row(y int) []uint8 {
	y = max(0, min(y, p.height-1))
	return p.pix[y*p.stride : y*p.stride+p.width]
}

// An upsampler yields rows of a subsampled chroma plane at full size, with the triangle filter that libjpeg calls fancy
// upsampling: a new sample is 3/4 of the nearer and 1/4 of the farther neighbour on each halved axis. Go's own
// conversion repeats samples, which differs by tens of levels at colour edges.
type upsampler struct {
	plane
	halfX, halfY bool
	sums         []int
	out          []uint8
}

func newUpsampler(p plane, width int, halfX, halfY bool) *upsampler {
	return &upsampler{plane: p, halfX: halfX, halfY: halfY, sums: make([]int, p.width), out: make([]uint8, 2*p.width+width)}
}

// full returns row y of the full-size channel. The slice is valid until the next call.
func (u *upsampler) full(y int) []uint8 {
	if !u.halfX && !u.halfY {
		return u.row(y)
	}
	if !u.halfY {
		src := u.row(y)
		// libjpeg repeats samples when a row has no inner ones.
		if len(src) <= 2 {
			for i, v := range src {
				u.out[2*i], u.out[2*i+1] = v, v
			}
			return u.out
		}
		last := len(src) - 1
		for i, v := range src {
			left, right := int(src[max(i-1, 0)]), int(src[min(i+1, last)])
			u.out[2*i] = uint8((3*int(v) + left + 1) >> 2)
			u.out[2*i+1] = uint8((3*int(v) + right + 2) >> 2)
		}
		return u.out
	}
	// The row in the other half's direction: above for even rows, below for odd ones.
	near, far := u.row(y/2), u.row(y/2-1+2*(y&1))
	if !u.halfX {
		bias := 1 + y&1
		for i := range near {
			u.out[i] = uint8((3*int(near[i]) + int(far[i]) + bias) >> 2)
		}
		return u.out
	}
	if len(near) <= 2 {
		for i, v := range near {
			u.out[2*i], u.out[2*i+1] = v, v
		}
		return u.out
	}
	for i := range near {
		u.sums[i] = 3*int(near[i]) + int(far[i])
	}
	last := len(near) - 1
	for i, v := range u.sums {
		left, right := u.sums[max(i-1, 0)], u.sums[min(i+1, last)]
		u.out[2*i] = uint8((3*v + left + 8) >> 4)
		u.out[2*i+1] = uint8((3*v + right + 7) >> 4)
	}
	return u.out
}
