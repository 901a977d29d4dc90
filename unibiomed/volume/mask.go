package volume

import (
	"fmt"
	"math/bits"
)

// A Mask is a yes or no for each voxel of a grid, at one bit a voxel. It is not safe for concurrent writes.
type Mask struct {
	Dims [3]int // columns, rows, slices
	bits []uint64
}

// NewMask returns an empty mask of the given grid.
func NewMask(dims [3]int) *Mask {
	n := dims[0] * dims[1] * dims[2]
	return &Mask{Dims: dims, bits: make([]uint64, (n+63)/64)}
}

func (m *Mask) len() int               { return m.Dims[0] * m.Dims[1] * m.Dims[2] }
func (m *Mask) get(i int) uint8        { return uint8(m.bits[i>>6] >> (i & 63) & 1) }
func (m *Mask) offset(i, j, k int) int { return (k*m.Dims[1]+j)*m.Dims[0] + i }

func (m *Mask) set(i int, in bool) {
	if in {
		m.bits[i>>6] |= 1 << (i & 63)
	} else {
		m.bits[i>>6] &^= 1 << (i & 63)
	}
}

// At reports whether voxel (i, j, k), which must exist, is inside.
func (m *Mask) At(i, j, k int) bool { return m.get(m.offset(i, j, k)) != 0 }

// Set puts voxel (i, j, k), which must exist, inside or outside.
func (m *Mask) Set(i, j, k int, in bool) { m.set(m.offset(i, j, k), in) }

// Count returns the number of voxels inside.
func (m *Mask) Count() int {
	n := 0
	for _, b := range m.bits {
		n += bits.OnesCount64(b)
	}
	return n
}

// Slice fills dst, of columns x rows values, with 0 and 1 from slice k and reports whether any voxel is inside.
func (m *Mask) Slice(k int, dst []uint8) bool {
	any, first := uint8(0), m.offset(0, 0, k)
	for i := range dst {
		dst[i] = m.get(first + i)
		any |= dst[i]
	}
	return any != 0
}

// Overlaps reports whether two masks of one grid share a voxel.
func (m *Mask) Overlaps(o *Mask) bool {
	for i := range m.bits {
		if m.bits[i]&o.bits[i] != 0 {
			return true
		}
	}
	return false
}

// Add puts the voxels of o, a mask of the same grid, into m.
func (m *Mask) Add(o *Mask) {
	for i := range m.bits {
		m.bits[i] |= o.bits[i]
	}
}

// Bounds returns the smallest and largest index inside along each axis; ok is false for an empty mask.
func (m *Mask) Bounds() (lo, hi [3]int, ok bool) {
	lo, hi = m.Dims, [3]int{-1, -1, -1}
	for w, b := range m.bits {
		for ; b != 0; b &= b - 1 {
			i := w<<6 + bits.TrailingZeros64(b)
			for a, u := range [3]int{i % m.Dims[0], i / m.Dims[0] % m.Dims[1], i / m.Dims[0] / m.Dims[1]} {
				lo[a], hi[a] = min(lo[a], u), max(hi[a], u)
			}
		}
	}
	return lo, hi, hi[0] >= 0
}

// LargestComponent keeps the largest part of m whose voxels touch by a face, an edge or a corner, and empties the rest.
// Of parts of equal size the one with the first voxel stays.
func (m *Mask) LargestComponent() {
	rest := &Mask{Dims: m.Dims, bits: append([]uint64(nil), m.bits...)}
	best, bestCount := NewMask(m.Dims), 0
	part := NewMask(m.Dims)
	var stack []int
	for w := range rest.bits {
		for rest.bits[w] != 0 {
			clear(part.bits)
			count := 0
			stack = rest.take(part, w<<6+bits.TrailingZeros64(rest.bits[w]), stack[:0])
			for len(stack) > 0 {
				i := stack[len(stack)-1]
				stack = stack[:len(stack)-1]
				count++
				m.around(i, true, func(j int) {
					if rest.get(j) != 0 {
						stack = rest.take(part, j, stack)
					}
				})
			}
			if count > bestCount {
				best, part, bestCount = part, best, count
			}
		}
	}
	m.bits = best.bits
}

// FillHoles puts the voxels inside that no path of outside voxels, touching by faces, connects with the border of the grid.
// With perSlice the path must stay in its slice, so that a tube open at both ends is filled too.
func (m *Mask) FillHoles(perSlice bool) {
	rest := NewMask(m.Dims) // outside voxels not yet reached
	for i := range rest.bits {
		rest.bits[i] = ^m.bits[i]
	}
	if n := m.len(); n&63 != 0 {
		rest.bits[len(rest.bits)-1] &= 1<<(n&63) - 1
	}
	reached := NewMask(m.Dims)
	var stack []int
	flood := func(start int) {
		if rest.get(start) == 0 {
			return
		}
		stack = rest.take(reached, start, stack[:0])
		for len(stack) > 0 {
			i := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			k := i / (m.Dims[0] * m.Dims[1])
			m.around(i, false, func(j int) {
				if rest.get(j) != 0 && (!perSlice || j/(m.Dims[0]*m.Dims[1]) == k) {
					stack = rest.take(reached, j, stack)
				}
			})
		}
	}
	for k := range m.Dims[2] {
		for j := range m.Dims[1] {
			for i := range m.Dims[0] {
				border := i == 0 || j == 0 || i == m.Dims[0]-1 || j == m.Dims[1]-1
				if border || !perSlice && (k == 0 || k == m.Dims[2]-1) {
					flood(m.offset(i, j, k))
				}
			}
		}
	}
	for i := range m.bits {
		m.bits[i] |= rest.bits[i]
	}
}

// take moves voxel i from m to part and pushes it.
func (m *Mask) take(part *Mask, i int, stack []int) []int {
	m.set(i, false)
	part.set(i, true)
	return append(stack, i)
}

// around calls fn with the offset of each neighbour of voxel i: 26 of them if corners, else the 6 that share a face.
func (m *Mask) around(i int, corners bool, fn func(int)) {
	x, y, z := i%m.Dims[0], i/m.Dims[0]%m.Dims[1], i/m.Dims[0]/m.Dims[1]
	for dz := -1; dz <= 1; dz++ {
		for dy := -1; dy <= 1; dy++ {
			for dx := -1; dx <= 1; dx++ {
				if !corners && dx*dx+dy*dy+dz*dz != 1 {
					continue
				}
				a, b, c := x+dx, y+dy, z+dz
				if a >= 0 && b >= 0 && c >= 0 && a < m.Dims[0] && b < m.Dims[1] && c < m.Dims[2] {
					fn(m.offset(a, b, c))
				}
			}
		}
	}
}

// A Label is a named mask of a volume: one segmented phrase.
type Label struct {
	Name  string
	Color [3]uint8 // red, green, blue
	Mask  *Mask
}

// CheckLabels returns an error unless there are labels and all masks have the grid dims.
func CheckLabels(labels []Label, dims [3]int) error {
	if len(labels) == 0 {
		return fmt.Errorf("volume: no label to write")
	}
	for _, l := range labels {
		if l.Mask == nil || l.Mask.Dims != dims {
			return fmt.Errorf("volume: label %q: its grid is not the volume's %v", l.Name, dims)
		}
	}
	return nil
}

// Layers sorts labels into as few layers as a first fit finds, so that no two masks of a layer overlap. The result
// holds indices into labels.
func Layers(labels []Label) [][]int {
	var layers [][]int
	var taken []*Mask
next:
	for i, l := range labels {
		for n := range layers {
			if !taken[n].Overlaps(l.Mask) {
				taken[n].Add(l.Mask)
				layers[n] = append(layers[n], i)
				continue next
			}
		}
		t := NewMask(l.Mask.Dims)
		t.Add(l.Mask)
		taken, layers = append(taken, t), append(layers, []int{i})
	}
	return layers
}
