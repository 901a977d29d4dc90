package imaging

import "image"

// DrawBox draws the region prompt of UniBiomed around r: a rectangle of pure green (0, 255, 0) with the corners
// (r.Min.X, r.Min.Y) and (r.Max.X, r.Max.Y), which is how a bounding box (x, y, w, h) is drawn there. Lines have OpenCV's
// thickness 2: every pixel on the outline and its four neighbours. Pixels outside the image are left out.
func (m *RGB) DrawBox(r image.Rectangle) {
	r = r.Canon()
	m.fill(r.Min.X, r.Min.Y-1, r.Max.X, r.Min.Y+1)
	m.fill(r.Min.X-1, r.Min.Y, r.Max.X+1, r.Min.Y)
	m.fill(r.Min.X, r.Max.Y-1, r.Max.X, r.Max.Y+1)
	m.fill(r.Min.X-1, r.Max.Y, r.Max.X+1, r.Max.Y)
	m.fill(r.Min.X-1, r.Min.Y, r.Min.X+1, r.Max.Y)
	m.fill(r.Max.X-1, r.Min.Y, r.Max.X+1, r.Max.Y)
}

// fill paints the pixels x0..x1, y0..y1, both ends included.
func (m *RGB) fill(x0, y0, x1, y1 int) {
	x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, m.Width-1), min(y1, m.Height-1)
	for y := y0; y <= y1; y++ {
		row := m.Row(y)
		for x := x0; x <= x1; x++ {
			row[3*x], row[3*x+1], row[3*x+2] = 0, 255, 0
		}
	}
}
