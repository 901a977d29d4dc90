package resample

import "github.com/unibiomed/go-unibiomed/unibiomed/imaging"

// Cells shrinks a mask prompt to n x n cells, row-major: nearest neighbour with source index floor(cell*size/n). Cell i
// selects image token i of the last tile; n is 16 for tiles of 256 tokens. A thin region may select none. A mask
// without pixels selects none.
func Cells(m *imaging.Mask, n int) []bool {
	cells := make([]bool, n*n)
	for i := range cells {
		cells[i] = m.Inside(i%n*m.Width/n, i/n*m.Height/n)
	}
	return cells
}
