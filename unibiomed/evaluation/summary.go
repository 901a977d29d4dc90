package evaluation

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"unicode"

	"github.com/unibiomed/go-unibiomed/unibiomed"
	"github.com/unibiomed/go-unibiomed/unibiomed/metrics"
)

// SummarySchema names the format of a Summary in JSON.
const SummarySchema = "unibiomed.evaluation/1"

// A Summary is the scores of a run. Blocks that the task does not have are nil. All scores run from 0 to 1.
type Summary struct {
	Schema  string `json:"schema"`
	Header  Header `json:"run"`
	Images  int    `json:"images"`  // scored
	Failed  int    `json:"failed"`  // could not be read or answered; in no score
	Resized int    `json:"resized"` // truths that had another size than their image

	Segmentation *SegmentationScores `json:"segmentation,omitempty"`
	Absent       *Scores             `json:"absent,omitempty"`  // share of absent phrases answered without a pixel, or with no
	Foreign      *Scores             `json:"foreign,omitempty"` // the same of phrases of another modality
	Recognition  *RecognitionScores  `json:"recognition,omitempty"`
	Region       *TextScores         `json:"region,omitempty"`
	Modality     *Scores             `json:"modality,omitempty"`
	Presence     *Scores             `json:"presence,omitempty"` // over present, absent and foreign phrases
	Classes      *ClassScores        `json:"classes,omitempty"`  // of the tasks that answer in words
	ByModality   []Row               `json:"by_modality,omitempty"`
	ByPhrase     []Row               `json:"by_phrase,omitempty"`

	Interval Interval `json:"interval"`
	Notice   string   `json:"notice"`
}

// An Interval says how confidence intervals were made: percentiles of means over groups drawn with replacement.
type Interval struct {
	Level  float64 `json:"level"`
	Rounds int     `json:"rounds"`
	Seed   uint64  `json:"seed"`
}

// Scores is a mean over questions with its interval. One group alone has none: Low and High are its mean.
type Scores struct {
	Mean   float64 `json:"mean"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
	Count  int     `json:"count"`
	Groups int     `json:"groups"`
}

// ClassScores put the strict accuracy of a task that answers in words beside what needs no image.
type ClassScores struct {
	Count          int     `json:"count"`           // different true answers
	Balanced       float64 `json:"balanced"`        // mean of the accuracies of each true answer
	Majority       float64 `json:"majority"`        // accuracy of always giving the most frequent true answer
	MajorityAnswer string  `json:"majority_answer"` // which that is
}

// SegmentationScores are those of masks.
type SegmentationScores struct {
	Official  SegmentationScore        `json:"official"`
	Strict    SegmentationScore        `json:"strict"`
	NoSeg     int                      `json:"without_mask"` // answers without a mask, scored as empty ones
	Follows   Follows                  `json:"follows_question"`
	Baselines map[string]BaselineScore `json:"baselines,omitempty"`
}

// Follows counts pairs of targets of one image that lie in different places (a Dice of their truths below one half), and how many of
// those pairs got different masks (a Dice of the answers below 0.9), or two masks without a pixel. The rest got the same mask twice.
type Follows struct {
	Pairs     int `json:"pairs"`
	Different int `json:"different"`
	BothEmpty int `json:"both_empty"`
}

// A BaselineScore is the strict Dice of a baseline.
type BaselineScore struct {
	Dice         Scores  `json:"dice"`
	ModalityDice float64 `json:"modality_dice"`
}

// A SegmentationScore holds the official aggregates, or the strict ones.
type SegmentationScore struct {
	Dice      Scores  `json:"dice"` // mean over instances
	IoU       float64 `json:"iou"`
	ClassDice float64 `json:"class_dice"` // mean over phrases
	ClassIoU  float64 `json:"class_iou"`
	Skipped   int     `json:"skipped"`

	ModalityDice float64 `json:"modality_dice"` // mean over modalities, MRI sequences being one
}

// RecognitionScores are those of phrases with masks.
type RecognitionScores struct {
	OfficialAccuracy float64 `json:"official_accuracy"`
	OfficialImages   int     `json:"official_images"` // whose numbers of masks agree: the others are not counted
	OfficialDice     Scores  `json:"official_dice"`
	StrictAccuracy   Scores  `json:"strict_accuracy"`
	StrictDice       Scores  `json:"strict_dice"`
}

// TextScores are those of answers in words.
type TextScores struct {
	Official Scores `json:"official"`
	Strict   Scores `json:"strict"`
}

// A Row is a part of the data set. Its score is the task's main one: Dice of segment, strict accuracy of the others.
type Row struct {
	Name     string  `json:"name"`
	Official *Scores `json:"official,omitempty"`
	Strict   *Scores `json:"strict,omitempty"`
	Absent   *Scores `json:"absent,omitempty"`

	Baselines map[string]*Scores `json:"baselines,omitempty"`
}

// SummaryOptions configure Summarize. The zero value takes 95 %, 2000 rounds and seed 1.
type SummaryOptions struct {
	Level  float64
	Rounds int
	Seed   uint64
}

// Summarize makes the scores of records.
func Summarize(h Header, records []Record, o SummaryOptions) (*Summary, error) {
	in := Interval{cmp.Or(o.Level, 0.95), cmp.Or(o.Rounds, 2000), cmp.Or(o.Seed, 1)}
	s := &Summary{Schema: SummarySchema, Header: h, Interval: in, Notice: unibiomed.Notice}
	var all []asked
	modalities := map[string]bool{}
	for _, r := range records {
		modalities[family(r.Modality)] = true
	}
	for _, r := range records {
		if r.Error != "" {
			s.Failed++
			continue
		}
		s.Images++
		for _, it := range r.Items {
			if it.Resized {
				s.Resized++
			}
			a := asked{Item: it, group: r.Group, modality: r.Modality}
			a.measure(h.Task, modalities)
			all = append(all, a)
		}
	}
	// The official score takes the first instances of the annotation file, whatever order they were computed in.
	slices.SortStableFunc(all, func(a, b asked) int { return cmp.Compare(a.Order, b.Order) })
	c := &calculator{in: in}
	left := officialInstances
	for i := range all {
		if !all[i].Item.Absent && left > 0 {
			left--
			all[i].counts = all[i].overlap().Truth > 0
		}
	}
	present, absent := split(all)
	switch h.Task {
	case Segment:
		if len(present) > 0 {
			s.Segmentation = c.segmentation(present)
		}
	case Recognize:
		if len(present) > 0 {
			s.Recognition = c.recognition(present)
		}
	case Region:
		if len(present) > 0 {
			s.Region = &TextScores{*c.mean(present, official), *c.mean(present, strictly)}
		}
	case Modality:
		s.Modality = c.mean(present, strictly)
	case Presence:
		s.Presence = c.mean(all, strictly)
	}
	here, foreign := splitForeign(absent)
	s.Absent, s.Foreign = c.mean(here, strictly), c.mean(foreign, strictly)
	if h.Task != Segment {
		s.Classes = classes(h.Task, all)
	}
	s.ByModality = c.rows(h.Task, all, func(a asked) string { return family(a.modality) })
	s.ByPhrase = c.rows(h.Task, all, func(a asked) string { return a.Phrase })
	return s, c.err
}

// asked is an item with what it is grouped by and its scores.
type asked struct {
	Item
	group, modality  string
	official, strict float64
	counts           bool // for the official segmentation score: among the first, and the truth has a pixel
}

// officialInstances is how many annotations the official segmentation score takes (spec/evaluation.md 1).
const officialInstances = 300

func official(a asked) float64 { return a.official }
func strictly(a asked) float64 { return a.strict }

func (it Item) overlap() metrics.Overlap {
	if it.Pixels == nil {
		return metrics.Overlap{}
	}
	return metrics.Overlap{Pred: it.Pixels.Pred, Truth: it.Pixels.Truth, Both: it.Pixels.Both}
}

func (a *asked) measure(t Task, modalities map[string]bool) {
	switch t {
	case Segment:
		o := a.overlap()
		if o.Pred+o.Truth == 0 {
			a.official, a.strict = 1, 1
		} else {
			a.official, a.strict = o.Dice(), o.Dice()
		}
	case Recognize:
		a.strict = truth(metrics.StrictMatch(metrics.CleanAnswer(a.Answer), a.Phrase))
	case Region:
		answer := metrics.CleanCaption(a.Answer)
		a.official = truth(metrics.OfficialRegion(answer, a.Phrase))
		a.strict = truth(metrics.StrictMatch(answer, a.Phrase))
	case Presence:
		yes, ok := saysYes(metrics.CleanCaption(a.Answer))
		a.strict = truth(ok && yes != a.Item.Absent)
	case Modality:
		a.strict = truth(namesModality(metrics.CleanCaption(a.Answer), a.Phrase, modalities))
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// family is a modality without its sequence: MRI of MRI-FLAIR.
func family(modality string) string {
	if strings.HasPrefix(strings.ToUpper(modality), "MRI-") {
		return "MRI"
	}
	return modality
}

// Family is the modality without its sequence: MRI of MRI-FLAIR.
func (s Sample) Family() string { return family(s.Modality) }

// namesModality asks that an answer names the modality as a word, and no other one of the data set.
func namesModality(answer, want string, all map[string]bool) bool {
	words := " " + strings.Join(strings.FieldsFunc(strings.ToLower(answer), func(r rune) bool {
		return r != '-' && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	}), " ") + " "
	has := func(m string) bool { return m != "" && strings.Contains(words, " "+strings.ToLower(m)+" ") }
	want = family(want)
	for m := range all {
		if !strings.EqualFold(m, want) && has(m) {
			return false
		}
	}
	return has(want)
}

func split(all []asked) (present, absent []asked) {
	for _, a := range all {
		if a.Item.Absent {
			absent = append(absent, a)
		} else {
			present = append(present, a)
		}
	}
	return present, absent
}

func splitForeign(absent []asked) (here, foreign []asked) {
	for _, a := range absent {
		if a.Foreign {
			foreign = append(foreign, a)
		} else {
			here = append(here, a)
		}
	}
	return here, foreign
}

// classes scores answers by what they should have been.
func classes(t Task, all []asked) *ClassScores {
	right, total := map[string]float64{}, map[string]float64{}
	for _, a := range all {
		name := a.Phrase
		switch {
		case t == Presence && a.Item.Absent:
			name = "no"
		case t == Presence:
			name = "yes"
		case t == Modality:
			name = family(a.Phrase)
		}
		total[name]++
		right[name] += a.strict
	}
	if len(total) == 0 {
		return nil
	}
	s := &ClassScores{Count: len(total)}
	for _, name := range slices.Sorted(maps.Keys(total)) {
		s.Balanced += right[name] / total[name] / float64(len(total))
		if share := total[name] / float64(len(all)); share > s.Majority {
			s.Majority, s.MajorityAnswer = share, name
		}
	}
	return s
}

// saysYes reads an answer to a question of Presence: its first word.
func saysYes(answer string) (yes, ok bool) {
	words := strings.FieldsFunc(strings.ToLower(answer), func(r rune) bool { return !unicode.IsLetter(r) })
	if len(words) == 0 || words[0] != "yes" && words[0] != "no" {
		return false, false
	}
	return words[0] == "yes", true
}

// A calculator makes means with intervals and keeps the first error.
type calculator struct {
	in  Interval
	err error
}

// mean is nil when there is nothing to score.
func (c *calculator) mean(items []asked, score func(asked) float64) *Scores {
	if len(items) == 0 {
		return nil
	}
	groups := map[string][]float64{}
	for _, a := range items {
		groups[a.group] = append(groups[a.group], score(a))
	}
	var drawn [][]float64
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		drawn = append(drawn, groups[name])
	}
	i, err := metrics.Bootstrap(drawn, c.in.Level, c.in.Rounds, c.in.Seed)
	if err != nil && c.err == nil {
		c.err = err
	}
	return &Scores{Mean: i.Mean, Low: i.Low, High: i.High, Count: len(items), Groups: len(groups)}
}

func (c *calculator) segmentation(items []asked) *SegmentationScores {
	s := &SegmentationScores{}
	instances := make([]metrics.Instance, len(items))
	for i, a := range items {
		s.Follows.Pairs += a.Others
		s.Follows.Different += a.Followed
		s.Follows.BothEmpty += a.BothEmpty
		instances[i] = metrics.Instance{Class: a.Phrase, Overlap: a.overlap()}
		if a.Segs == 0 {
			s.NoSeg++
		}
	}
	score := func(m metrics.Segmentation, scored []asked) SegmentationScore {
		out := SegmentationScore{IoU: m.IoU, ClassDice: m.ClassDice, ClassIoU: m.ClassIoU, Skipped: m.Skipped}
		if mean := c.mean(scored, strictly); mean != nil {
			out.Dice = *mean
			out.Dice.Mean = m.Dice // with the official 1e-6 in its denominator
		}
		out.ModalityDice = overModalities(scored, strictly)
		return out
	}
	s.Strict = score(metrics.StrictSegmentation(instances), items)
	s.Official = score(metrics.OfficialSegmentation(instances), officialItems(items))
	for _, name := range []string{MeanMask, Otsu} {
		if mean := c.baseline(items, name); mean != nil {
			if s.Baselines == nil {
				s.Baselines = map[string]BaselineScore{}
			}
			s.Baselines[name] = BaselineScore{*mean, overModalities(items, baselineDice(name))}
		}
	}
	return s
}

// baseline is nil when the items have not all been measured with it.
func (c *calculator) baseline(items []asked, name string) *Scores {
	if slices.ContainsFunc(items, func(a asked) bool { return a.Item.Baselines[name] == nil }) {
		return nil
	}
	return c.mean(items, baselineDice(name))
}

func baselineDice(name string) func(asked) float64 {
	return func(a asked) float64 {
		p := a.Item.Baselines[name]
		return diceOrOne(metrics.Overlap{Pred: p.Pred, Truth: p.Truth, Both: p.Both})
	}
}

// overModalities is the mean of the modalities' means.
func overModalities(items []asked, score func(asked) float64) float64 {
	sums, counts := map[string]float64{}, map[string]float64{}
	for _, a := range items {
		sums[family(a.modality)] += score(a)
		counts[family(a.modality)]++
	}
	mean := 0.0
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		mean += sums[name] / counts[name] / float64(len(counts))
	}
	return mean
}

// officialItems are those that OfficialSegmentation scores.
func officialItems(items []asked) []asked {
	var kept []asked
	for _, a := range items {
		if a.counts {
			kept = append(kept, a)
		}
	}
	return kept
}

func (c *calculator) recognition(items []asked) *RecognitionScores {
	var r metrics.Recognition
	for _, a := range items {
		r.Add(a.Answer, a.Phrase, a.Segs, a.Expected, metrics.Matched{Official: a.Item.Official, Strict: a.Item.Strict})
	}
	o := r.Official()
	return &RecognitionScores{
		OfficialAccuracy: o.Accuracy, OfficialImages: o.Images,
		OfficialDice:   *c.mean(items, func(a asked) float64 { return a.Item.Official }),
		StrictAccuracy: *c.mean(items, strictly),
		StrictDice:     *c.mean(items, func(a asked) float64 { return a.Item.Strict }),
	}
}

// rows scores every part of the items that key names.
func (c *calculator) rows(t Task, all []asked, key func(asked) string) []Row {
	parts := map[string][]asked{}
	for _, a := range all {
		parts[key(a)] = append(parts[key(a)], a)
	}
	var rows []Row
	for _, name := range slices.Sorted(maps.Keys(parts)) {
		present, absent := split(parts[name])
		row := Row{Name: cmp.Or(name, "unknown"), Strict: c.mean(present, strictly), Absent: c.mean(absent, strictly)}
		switch t {
		case Segment:
			row.Official = c.mean(officialItems(present), official)
			for _, name := range []string{MeanMask, Otsu} {
				if mean := c.baseline(present, name); mean != nil {
					if row.Baselines == nil {
						row.Baselines = map[string]*Scores{}
					}
					row.Baselines[name] = mean
				}
			}
		case Region:
			row.Official = c.mean(present, official)
		}
		rows = append(rows, row)
	}
	return rows
}
