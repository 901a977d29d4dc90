package checkpoint

import (
	"context"
	"math"

	"github.com/unibiomed/go-unibiomed/unibiomed/gguf"
)

// DefaultMaxError is what Options.MaxError stands for at 0. Values that are spread evenly over the channels of a matrix err by 0.0054 in
// q8_0, and no matrix of unibiomed-nano by more than 0.017 (docs/performance.md).
const DefaultMaxError = 0.03

// sampledRows of a matrix, evenly spaced, are measured at most.
const sampledRows = 256

// A Kept matrix is stored as f16 because q8_0 would change it too much.
type Kept struct {
	Tensor string
	Error  float64 // in q8_0, see Options.MaxError
}

// A rowReader reads a row of a matrix as f32.
type rowReader func(row int64, dst []float32) error

// q8Error returns what q8_0 does to a matrix: the root mean square over input channels of each channel's error, as a share of the channel's
// root mean square. One share for the whole matrix would not see small channels whose blocks of 32 hold a large one.
func (p *pass) q8Error(j job) (float64, error) {
	if err := context.Cause(p.ctx); err != nil {
		return 0, err
	}
	rows, length := j.out.Rows()
	n := min(rows, sampledRows)
	row, back := make([]float32, length), make([]float32, length)
	power, wrong := make([]float64, length), make([]float64, length)
	for i := range n {
		at := i * rows / n
		if err := j.read(at, row); err != nil {
			return 0, err
		}
		packed, err := p.encoder.encode(gguf.Q8_0, row, 1, int(length), j.file, j.out.Name, at*length)
		if err != nil {
			return 0, err
		}
		if err := floats(gguf.Q8_0)(back, packed); err != nil {
			return 0, err
		}
		for c, v := range row {
			power[c] += float64(v) * float64(v)
			wrong[c] += float64(back[c]-v) * float64(back[c]-v)
		}
	}
	var sum, channels float64
	for c := range power {
		if power[c] > 0 {
			sum += wrong[c] / power[c]
			channels++
		}
	}
	return math.Sqrt(sum / max(channels, 1)), nil
}
