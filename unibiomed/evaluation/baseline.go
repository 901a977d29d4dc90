package evaluation

import (
	"context"
	"fmt"
	"slices"

	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
	"github.com/unibiomed/go-unibiomed/unibiomed/metrics"
)

// Names of the baselines: simple methods that a model must beat to have understood anything of an image.
const (
	// MeanMask answers with the mean of a phrase's training masks, stretched to the image and cut where that scores best in training.
	MeanMask = "mean_mask"
	// Otsu answers with what is brighter or darker than Otsu's threshold, or the largest connected part of that: of the four the one
	// that scores best for the phrase in training.
	Otsu = "otsu"
)

// Baselines are methods fitted to the masks of a training split.
type Baselines struct {
	mean map[string]*meanMask
	otsu map[string]otsuVariant
}

const (
	meanSide    = 64  // the mean mask's grid
	meanSamples = 100 // training masks that choose its threshold
	otsuSamples = 24  // training images that choose the variant
)

// A meanMask is a phrase's mean coverage in 0..1 on a grid of meanSide x meanSide, and what counts as inside.
type meanMask struct {
	coverage  [meanSide * meanSide]float64
	threshold float64
	n         int
	some      [][meanSide * meanSide]float32
}

type otsuVariant struct{ dark, largest bool }

var otsuVariants = []otsuVariant{{false, true}, {false, false}, {true, true}, {true, false}}

// FitBaselines fits to a data set, which should be a training split. progress, when not nil, hears each image.
func FitBaselines(ctx context.Context, train *Dataset, progress func(i, n int, s Sample)) (*Baselines, error) {
	b := &Baselines{map[string]*meanMask{}, map[string]otsuVariant{}}
	sums := map[string]*[4]float64{}
	tried := map[string]int{}
	for i, s := range train.Samples {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if progress != nil {
			progress(i, len(train.Samples), s)
		}
		var cuts *otsuCuts
		for _, t := range s.Targets {
			m, err := imaging.DecodeMaskFile(t.Mask, imaging.Options{})
			if err != nil {
				return nil, err
			}
			if b.mean[t.Phrase] == nil {
				b.mean[t.Phrase] = &meanMask{}
				sums[t.Phrase] = &[4]float64{}
			}
			b.mean[t.Phrase].add(m)
			if tried[t.Phrase]++; tried[t.Phrase] > otsuSamples {
				continue
			}
			if cuts == nil {
				img, err := imaging.DecodeFile(s.Image, imaging.Options{})
				if err != nil {
					return nil, err
				}
				cuts = cutOtsu(img)
			}
			if m.Width != cuts.width || m.Height != cuts.height {
				m = metrics.ResizeTruth(m, cuts.width, cuts.height)
			}
			for k, v := range otsuVariants {
				o, err := metrics.Count(cuts.mask(v), m)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", s.ID, err)
				}
				sums[t.Phrase][k] += diceOrOne(o)
			}
		}
	}
	for phrase, m := range b.mean {
		m.choose()
		best := 0
		for k, sum := range sums[phrase] {
			if sum > sums[phrase][best] {
				best = k
			}
		}
		b.otsu[phrase] = otsuVariants[best]
	}
	return b, nil
}

// Fill measures the baselines on the targets of records of Segment, where the samples are those of the records' data set.
func (b *Baselines) Fill(ctx context.Context, samples []Sample, records []Record) error {
	byID := map[string]Sample{}
	for _, s := range samples {
		byID[s.ID] = s
	}
	for _, r := range records {
		if err := ctx.Err(); err != nil {
			return err
		}
		s, ok := byID[r.ID]
		if r.Error != "" || !ok {
			continue
		}
		img, err := imaging.DecodeFile(s.Image, imaging.Options{})
		if err != nil {
			return err
		}
		cuts := cutOtsu(img)
		for i := range r.Items {
			it := &r.Items[i]
			if it.Absent || i >= len(s.Targets) {
				continue
			}
			truth, _, err := s.Targets[i].truth(img.Width, img.Height)
			if err != nil {
				return err
			}
			variant, ok := b.otsu[it.Phrase]
			if !ok {
				variant = otsuVariants[0]
			}
			mean := imaging.NewMask(img.Width, img.Height) // nothing, for a phrase without a training mask
			if m := b.mean[it.Phrase]; m != nil {
				m.draw(mean)
			}
			it.Baselines = map[string]*Pixels{}
			for name, pred := range map[string]*imaging.Mask{MeanMask: mean, Otsu: cuts.mask(variant)} {
				o, err := metrics.Count(pred, truth)
				if err != nil {
					return err
				}
				it.Baselines[name] = &Pixels{o.Pred, o.Truth, o.Both}
			}
		}
	}
	return nil
}

func diceOrOne(o metrics.Overlap) float64 {
	if o.Pred+o.Truth == 0 {
		return 1
	}
	return o.Dice()
}

// add takes a mask's share of every cell of the grid.
func (m *meanMask) add(mask *imaging.Mask) {
	var inside, all [meanSide * meanSide]float32
	for y := range mask.Height {
		row := y * meanSide / mask.Height * meanSide
		for x := range mask.Width {
			cell := row + x*meanSide/mask.Width
			all[cell]++
			if mask.Pix[y*mask.Width+x] != 0 {
				inside[cell]++
			}
		}
	}
	for i := range inside {
		if all[i] > 0 {
			inside[i] /= all[i]
		}
		m.coverage[i] += float64(inside[i])
	}
	m.n++
	if len(m.some) < meanSamples {
		m.some = append(m.some, inside)
	}
}

// choose makes a mean of the sum, and takes the threshold with the best mean Dice on some training masks.
func (m *meanMask) choose() {
	for i := range m.coverage {
		m.coverage[i] /= float64(m.n)
	}
	best := -1.0
	for t := 0.05; t < 0.96; t += 0.05 {
		sum := 0.0
		for _, truth := range m.some {
			var pred, both, area float64
			for i, v := range truth {
				area += float64(v)
				if m.coverage[i] >= t {
					pred++
					both += float64(v)
				}
			}
			if pred+area > 0 {
				sum += 2 * both / (pred + area)
			}
		}
		if sum > best {
			best, m.threshold = sum, t
		}
	}
	m.some = nil
}

// draw stretches the mean over a mask, linear between the centres of cells.
func (m *meanMask) draw(mask *imaging.Mask) {
	at := func(x, y int) float64 {
		return m.coverage[max(0, min(meanSide-1, y))*meanSide+max(0, min(meanSide-1, x))]
	}
	for y := range mask.Height {
		fy := (float64(y)+0.5)*meanSide/float64(mask.Height) - 0.5 + 1 // 1 more, so that the whole part is a floor
		y0, wy := int(fy)-1, fy-float64(int(fy))
		for x := range mask.Width {
			fx := (float64(x)+0.5)*meanSide/float64(mask.Width) - 0.5 + 1
			x0, wx := int(fx)-1, fx-float64(int(fx))
			v := (at(x0, y0)*(1-wx)+at(x0+1, y0)*wx)*(1-wy) + (at(x0, y0+1)*(1-wx)+at(x0+1, y0+1)*wx)*wy
			if v >= m.threshold {
				mask.Pix[y*mask.Width+x] = 1
			}
		}
	}
}

// otsuCuts are an image's four answers of Otsu, made when asked for.
type otsuCuts struct {
	width, height int
	bright        []bool
	made          map[otsuVariant]*imaging.Mask
}

func cutOtsu(img *imaging.RGB) *otsuCuts {
	grey := make([]uint8, img.Width*img.Height)
	var histogram [256]int
	for i := range grey {
		p := img.Pix[3*i : 3*i+3]
		grey[i] = uint8((299*int(p[0]) + 587*int(p[1]) + 114*int(p[2]) + 500) / 1000)
		histogram[grey[i]]++
	}
	t := otsuThreshold(histogram)
	c := &otsuCuts{img.Width, img.Height, make([]bool, len(grey)), map[otsuVariant]*imaging.Mask{}}
	for i, v := range grey {
		c.bright[i] = int(v) > t
	}
	return c
}

// otsuThreshold is the value t for which the classes <= t and > t differ most (Otsu 1979: largest variance between classes).
func otsuThreshold(histogram [256]int) int {
	var total, sum float64
	for v, n := range histogram {
		total += float64(n)
		sum += float64(v * n)
	}
	var below, sumBelow, best float64
	at := 0
	for t, n := range histogram {
		below += float64(n)
		sumBelow += float64(t * n)
		if below == 0 || below == total {
			continue
		}
		d := sumBelow/below - (sum-sumBelow)/(total-below)
		if between := below * (total - below) * d * d; between > best {
			best, at = between, t
		}
	}
	return at
}

func (c *otsuCuts) mask(v otsuVariant) *imaging.Mask {
	if m := c.made[v]; m != nil {
		return m
	}
	m := imaging.NewMask(c.width, c.height)
	for i, bright := range c.bright {
		if bright != v.dark {
			m.Pix[i] = 1
		}
	}
	if v.largest {
		keepLargest(m)
	}
	c.made[v] = m
	return m
}

// keepLargest leaves the largest 8-connected part, the first among equals.
func keepLargest(m *imaging.Mask) {
	label := make([]int32, len(m.Pix))
	var areas []int
	var stack []int
	for start, v := range m.Pix {
		if v == 0 || label[start] != 0 {
			continue
		}
		areas = append(areas, 0)
		id := int32(len(areas))
		label[start] = id
		for stack = append(stack[:0], start); len(stack) > 0; {
			i := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			areas[id-1]++
			x, y := i%m.Width, i/m.Width
			for ny := max(y-1, 0); ny <= min(y+1, m.Height-1); ny++ {
				for nx := max(x-1, 0); nx <= min(x+1, m.Width-1); nx++ {
					if j := ny*m.Width + nx; m.Pix[j] != 0 && label[j] == 0 {
						label[j] = id
						stack = append(stack, j)
					}
				}
			}
		}
	}
	if len(areas) == 0 {
		return
	}
	best := int32(slices.Index(areas, slices.Max(areas)) + 1)
	for i := range m.Pix {
		if label[i] != best {
			m.Pix[i] = 0
		}
	}
}
