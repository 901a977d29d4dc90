package metrics

import "github.com/unibiomed/go-unibiomed/unibiomed/imaging"

// A Matched is the score of all masks of one image.
type Matched struct {
	// Pairs are indices of matched predictions and truths, in the order of falling Dice.
	Pairs []Pair
	// Official is the mean Dice of the pairs, 0 without any. Masks that match nothing do not count.
	Official float64
	// Strict counts every mask that matches nothing as 0: the sum of the pairs' Dice over the larger number of masks.
	// It is 1 when there are no masks at all.
	Strict float64
}

// A Pair is a matched prediction and truth.
type Pair struct {
	Pred, Truth int
	Dice        float64
}

// Match pairs the predicted and the true masks of one image greedily: the pair of the highest Dice is taken and both
// leave, as long as the highest is above 0. Two empty masks have Dice 1. All masks must have one size.
func Match(pred, truth []*imaging.Mask) (Matched, error) {
	dice := make([]float64, len(pred)*len(truth))
	for t, b := range truth {
		for p, a := range pred {
			o, err := Count(a, b)
			if err != nil {
				return Matched{}, err
			}
			dice[t*len(pred)+p] = orOne(o.Dice())
		}
	}
	var m Matched
	sum := 0.0
	for {
		best, at := 0.0, -1
		for i, d := range dice {
			if d > best {
				best, at = d, i
			}
		}
		if at < 0 {
			break
		}
		t, p := at/len(pred), at%len(pred)
		m.Pairs = append(m.Pairs, Pair{Pred: p, Truth: t, Dice: best})
		sum += best
		for k := range pred {
			dice[t*len(pred)+k] = -1
		}
		for k := range truth {
			dice[k*len(pred)+p] = -1
		}
	}
	if n := len(m.Pairs); n > 0 {
		m.Official = sum / float64(n)
	}
	m.Strict = 1
	if n := max(len(pred), len(truth)); n > 0 {
		m.Strict = sum / float64(n)
	}
	return m, nil
}
