package metrics

import (
	"fmt"
	"math/rand/v2"
	"slices"
)

// An Interval is a mean with its confidence interval.
type Interval struct{ Mean, Low, High float64 }

// Bootstrap estimates the confidence interval of the mean of all scores by the percentile method, drawing whole groups:
// scores of one patient or one image are not independent. level is the coverage, such as 0.95; rounds is the number of
// draws, such as 2000. The same seed gives the same interval.
func Bootstrap(groups [][]float64, level float64, rounds int, seed uint64) (Interval, error) {
	if !(level > 0 && level < 1) || rounds < 1 {
		return Interval{}, fmt.Errorf("metrics: level %g and %d rounds, want 0 < level < 1 and at least one round", level, rounds)
	}
	type total struct {
		sum float64
		n   int
	}
	var totals []total
	var all total
	for _, g := range groups {
		if len(g) == 0 {
			continue
		}
		t := total{n: len(g)}
		for _, v := range g {
			t.sum += v
		}
		totals = append(totals, t)
		all.sum, all.n = all.sum+t.sum, all.n+t.n
	}
	if len(totals) == 0 {
		return Interval{}, fmt.Errorf("metrics: no scores in %d groups", len(groups))
	}
	random := rand.New(rand.NewPCG(seed, 0))
	means := make([]float64, rounds)
	for i := range means {
		var drawn total
		for range totals {
			t := totals[random.IntN(len(totals))]
			drawn.sum, drawn.n = drawn.sum+t.sum, drawn.n+t.n
		}
		means[i] = drawn.sum / float64(drawn.n)
	}
	slices.Sort(means)
	at := func(q float64) float64 { // between the two nearest draws
		place := q * float64(rounds-1)
		i := int(place)
		return means[i] + (means[min(i+1, rounds-1)]-means[i])*(place-float64(i))
	}
	return Interval{all.sum / float64(all.n), at((1 - level) / 2), at((1 + level) / 2)}, nil
}
