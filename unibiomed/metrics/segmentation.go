package metrics

import (
	"maps"
	"slices"
)

// tiny is what the official scripts add to every denominator.
const tiny = 1e-6

// officialInstances is how many instances of a dataset the official scripts score.
const officialInstances = 300

// An Instance is one scored mask of a dataset.
type Instance struct {
	Class   string // the phrase that was asked for
	Overlap Overlap
}

// A ClassScore is the mean over the instances of one class.
type ClassScore struct {
	Class     string
	Dice, IoU float64
	Instances int
}

// A Segmentation sums up the instances of a dataset. All scores run from 0 to 1.
type Segmentation struct {
	Dice, IoU           float64      // mean over instances
	ClassDice, ClassIoU float64      // mean over the means of classes
	Classes             []ClassScore // sorted by name
	Instances           int          // scored
	Skipped             int          // not scored: without truth, or beyond the first 300
	InstanceDice        []float64    // of the scored instances in their order, for Bootstrap
}

// OfficialSegmentation scores as the official scripts: the first 300 instances, those without any true pixel skipped,
// and 1e-6 added to each denominator.
func OfficialSegmentation(instances []Instance) Segmentation {
	kept := make([]Instance, 0, min(len(instances), officialInstances))
	for _, x := range instances[:min(len(instances), officialInstances)] {
		if x.Overlap.Truth > 0 {
			kept = append(kept, x)
		}
	}
	s := summarize(kept, tiny)
	s.Skipped = len(instances) - len(kept)
	return s
}

// StrictSegmentation scores every instance. Where the truth is empty the score is 1 if the prediction is empty too, else
// 0.
func StrictSegmentation(instances []Instance) Segmentation { return summarize(instances, 0) }

// summarize means the scores; extra is added to each denominator.
func summarize(instances []Instance, extra float64) Segmentation {
	s := Segmentation{Instances: len(instances), InstanceDice: make([]float64, 0, len(instances))}
	if len(instances) == 0 {
		return s
	}
	classes := map[string]*ClassScore{}
	for _, x := range instances {
		dice, iou := orOne(x.Overlap.Dice()), orOne(x.Overlap.IoU())
		s.InstanceDice = append(s.InstanceDice, dice)
		c := classes[x.Class]
		if c == nil {
			c = &ClassScore{Class: x.Class}
			classes[x.Class] = c
		}
		c.Dice, c.IoU, c.Instances = c.Dice+dice, c.IoU+iou, c.Instances+1
		s.Dice, s.IoU = s.Dice+dice, s.IoU+iou
	}
	n := float64(len(instances)) + extra
	s.Dice, s.IoU = s.Dice/n, s.IoU/n
	for _, name := range slices.Sorted(maps.Keys(classes)) {
		c := classes[name]
		n := float64(c.Instances) + extra
		c.Dice, c.IoU = c.Dice/n, c.IoU/n
		s.ClassDice, s.ClassIoU = s.ClassDice+c.Dice, s.ClassIoU+c.IoU
		s.Classes = append(s.Classes, *c)
	}
	n = float64(len(classes)) + extra
	s.ClassDice, s.ClassIoU = s.ClassDice/n, s.ClassIoU/n
	return s
}
