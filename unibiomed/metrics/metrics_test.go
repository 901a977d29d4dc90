package metrics_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
	"github.com/unibiomed/go-unibiomed/unibiomed/metrics"
	"pgregory.net/rapid"
)

func TestSegmentation(t *testing.T) {
	instances := []metrics.Instance{
		{Class: "liver", Overlap: metrics.Overlap{Pred: 4, Truth: 4, Both: 4}}, // Dice 1, IoU 1
		{Class: "liver", Overlap: metrics.Overlap{Pred: 4, Truth: 4, Both: 2}}, // 1/2, 1/3
		{Class: "spleen", Overlap: metrics.Overlap{Pred: 0, Truth: 3}},         // 0, 0
		{Class: "tumor", Overlap: metrics.Overlap{}},                           // no truth, rightly empty
		{Class: "tumor", Overlap: metrics.Overlap{Pred: 5}},                    // no truth, wrongly full
	}
	t.Run("official", func(t *testing.T) {
		s := metrics.OfficialSegmentation(instances)
		require.Equal(t, 3, s.Instances)
		require.Equal(t, 2, s.Skipped)
		require.InDelta(t, 1.5/(3+1e-6), s.Dice, 1e-12)
		require.InDelta(t, (4.0/3)/(3+1e-6), s.IoU, 1e-12)
		require.InDelta(t, (1.5/(2+1e-6))/(2+1e-6), s.ClassDice, 1e-12)
		require.Len(t, s.Classes, 2)
	})
	t.Run("strict", func(t *testing.T) {
		s := metrics.StrictSegmentation(instances)
		require.Equal(t, 5, s.Instances)
		require.Zero(t, s.Skipped)
		require.Equal(t, []float64{1, 0.5, 0, 1, 0}, s.InstanceDice)
		require.InDelta(t, 2.5/5, s.Dice, 1e-12)
		require.InDelta(t, (0.75+0+0.5)/3, s.ClassDice, 1e-12)
		require.Equal(t, []string{"liver", "spleen", "tumor"}, []string{s.Classes[0].Class, s.Classes[1].Class, s.Classes[2].Class})
	})
	t.Run("only the first 300 are official", func(t *testing.T) {
		many := make([]metrics.Instance, 400)
		for i := range many {
			many[i].Overlap = metrics.Overlap{Pred: 1, Truth: 1}
			if i < 300 {
				many[i].Overlap.Both = 1
			}
		}
		s := metrics.OfficialSegmentation(many)
		require.Equal(t, [2]int{300, 100}, [2]int{s.Instances, s.Skipped})
		require.InDelta(t, 1, s.Dice, 1e-6)
		require.InDelta(t, 0.75, metrics.StrictSegmentation(many).Dice, 1e-12)
	})
	t.Run("none", func(t *testing.T) {
		require.Zero(t, metrics.OfficialSegmentation(nil).Dice)
		require.Zero(t, metrics.StrictSegmentation(nil).Dice)
	})
}

func TestMatch(t *testing.T) {
	const none, left, right, all, most = "....", "##..", "..##", "####", "###."
	tests := []struct {
		name             string
		pred, truth      []string
		pairs            [][2]int
		official, strict float64
	}{
		{"crossed", []string{right, left}, []string{left, right}, [][2]int{{1, 0}, {0, 1}}, 1, 1},
		{"an extra prediction costs only strictly", []string{left, right}, []string{left}, [][2]int{{0, 0}}, 1, 0.5},
		{"a missed truth costs only strictly", []string{left}, []string{left, right}, [][2]int{{0, 0}}, 1, 0.5},
		{"nothing overlaps", []string{left}, []string{right}, nil, 0, 0},
		{"both empty", []string{none}, []string{none}, [][2]int{{0, 0}}, 1, 1},
		{"greedy takes the best pair first", []string{most, all}, []string{all, left}, [][2]int{{1, 0}, {0, 1}}, 0.9, 0.9},
		{"no masks at all", nil, nil, nil, 0, 1},
		{"nothing predicted", nil, []string{left}, nil, 0, 0},
	}
	masks := func(rows []string) (m []*imaging.Mask) {
		for _, r := range rows {
			m = append(m, parse(4, r))
		}
		return m
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, err := metrics.Match(masks(tt.pred), masks(tt.truth))
			require.NoError(t, err)
			var pairs [][2]int
			for _, p := range m.Pairs {
				pairs = append(pairs, [2]int{p.Pred, p.Truth})
			}
			require.Equal(t, tt.pairs, pairs)
			require.InDelta(t, tt.official, m.Official, 1e-12)
			require.InDelta(t, tt.strict, m.Strict, 1e-12)
		})
	}
	_, err := metrics.Match(masks([]string{left}), []*imaging.Mask{parse(2, left)})
	require.ErrorContains(t, err, "4x1")
}

func TestMatchProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(label string) (m []*imaging.Mask) {
			for range rapid.IntRange(0, 4).Draw(t, label) {
				m = append(m, &imaging.Mask{Width: 5, Height: 1, Pix: rapid.SliceOfN(rapid.ByteRange(0, 1), 5, 5).Draw(t, "mask")})
			}
			return m
		}
		pred, truth := draw("predictions"), draw("truths")
		m, err := metrics.Match(pred, truth)
		require.NoError(t, err)
		require.LessOrEqual(t, len(m.Pairs), min(len(pred), len(truth)))
		for i, p := range m.Pairs {
			require.Positive(t, p.Dice)
			if i > 0 {
				require.LessOrEqual(t, p.Dice, m.Pairs[i-1].Dice)
			}
		}
		if len(m.Pairs) > 0 {
			require.LessOrEqual(t, m.Strict, m.Official+1e-12)
		}
	})
}

func TestText(t *testing.T) {
	t.Run("answers", func(t *testing.T) {
		for text, want := range map[string]string{
			"[SEG]. pneumothorax.<|end|>":              "pneumothorax.",
			"[SEG]. tumor in\nbreast  ultrasound.":     "tumor inbreast ultrasound.",
			"It is [SEG].":                             "It is [SEG].",
			"[SEG]. [SEG]. <p> two  nodules </p>.":     "two nodules .",
			"no findings.":                             "no findings.",
			"[SEG]. growth < 3 mm, margin > 2 mm. <b>": "growth  2 mm.",
		} {
			require.Equal(t, want, metrics.CleanAnswer(text), text)
		}
	})
	t.Run("captions", func(t *testing.T) {
		require.Equal(t, "fetal head . The heart is here.", metrics.CleanCaption("<p> fetal head </p> [SEG].\nThe  heart [SEG] is here.<|end|>"))
	})
	t.Run("matches", func(t *testing.T) {
		require.True(t, metrics.OfficialMatch("Left Pneumothorax.", "pneumothorax"))
		require.False(t, metrics.OfficialMatch("pneumothorax", "pneumothorax"), "the full stop counts")
		require.True(t, metrics.StrictMatch(" Pneumothorax", "pneumothorax."))
		require.False(t, metrics.StrictMatch("left pneumothorax.", "pneumothorax"))
		require.True(t, metrics.OfficialContains("We see edema.", "edema"))
		require.False(t, metrics.OfficialContains("We see Edema.", "edema"))
	})
	t.Run("regions", func(t *testing.T) {
		for _, tt := range []struct {
			answer, truth string
			want          bool
		}{
			{"liver in abdomen ct<|end|>", "liver in abdomen CT", true},
			{"left kidney in abdomen ct", "right kidney in abdomen ct", true},
			{"kidney in pelvis ct", "kidney in abdomen ct", true}, // the site does not count
			{"liver in abdomen mri", "liver in abdomen ct", false},
			{"tumor in limb ct.", "tumor in limb ct", true},
			{"spleen in abdomen ct", "liver in abdomen ct", false},
			{"", "liver in abdomen ct", false},
		} {
			require.Equal(t, tt.want, metrics.OfficialRegion(tt.answer, tt.truth), "%q for %q", tt.answer, tt.truth)
		}
	})
}

func TestRecognition(t *testing.T) {
	var r metrics.Recognition
	r.Add("[SEG]. edema.<|end|>", "edema", 1, 1, metrics.Matched{Official: 0.8, Strict: 0.8})
	r.Add("[SEG]. small edema.<|end|>", "edema", 1, 1, metrics.Matched{Official: 1, Strict: 0.5})
	r.Add("nothing.", "edema", 0, 1, metrics.Matched{})
	official, strict := r.Official(), r.Strict()
	require.Equal(t, 2, official.Images)
	require.InDelta(t, 2/(2+1e-6), official.Accuracy, 1e-12)
	require.InDelta(t, 0.6, official.MeanDice, 1e-12)
	require.Equal(t, 3, strict.Images)
	require.InDelta(t, 1.0/3, strict.Accuracy, 1e-12)
	require.InDelta(t, 1.3/3, strict.MeanDice, 1e-12)
	require.Zero(t, new(metrics.Recognition).Strict())
}

// TestCaptions: values worked out by hand.
func TestCaptions(t *testing.T) {
	same := metrics.ScoreCaptions([]metrics.Caption{{"A small nodule in the right lung.", "a small nodule, in the right lung"}})
	for n := range 4 {
		require.InDelta(t, 1, same.BLEU[n], 1e-6)
	}
	require.InDelta(t, 1, same.ROUGEL, 1e-9)

	// "the cat sat" for "the cat sat on the mat": precision 1, half the length, so that only brevity exp(1 - 2) remains.
	short := metrics.ScoreCaptions([]metrics.Caption{{"the cat sat", "the cat sat on the mat"}})
	require.InDelta(t, 0.36788, short.BLEU[0], 1e-4)
	require.InDelta(t, 0.36788, short.BLEU[2], 1e-4)
	require.InDelta(t, 2.44*1*0.5/(0.5+1.44), short.ROUGEL, 1e-9)

	// A repeated word counts as often as in the reference: 1 of 3.
	repeated := metrics.ScoreCaptions([]metrics.Caption{{"lung lung lung", "the lung is"}})
	require.InDelta(t, 1.0/3, repeated.BLEU[0], 1e-6)

	require.Zero(t, metrics.ScoreCaptions(nil))
	empty := metrics.ScoreCaptions([]metrics.Caption{{"", "the lung"}})
	require.InDelta(t, 0, empty.BLEU[0], 1e-6)
	require.Zero(t, empty.ROUGEL)
	numbers := metrics.ScoreCaptions([]metrics.Caption{{"a 2.5 cm well-defined mass", "a 2.5 cm well-defined mass."}})
	require.InDelta(t, 1, numbers.BLEU[3], 1e-6)
}

func TestBootstrap(t *testing.T) {
	groups := [][]float64{{0.9, 0.8}, {0.5}, {}, {0.7, 0.6, 0.65}, {0.95}}
	a, err := metrics.Bootstrap(groups, 0.95, 2000, 1)
	require.NoError(t, err)
	require.InDelta(t, 5.1/7, a.Mean, 1e-12)
	require.Less(t, a.Low, a.Mean)
	require.Greater(t, a.High, a.Mean)
	b, err := metrics.Bootstrap(groups, 0.95, 2000, 1)
	require.NoError(t, err)
	require.Equal(t, a, b)
	narrow, err := metrics.Bootstrap(groups, 0.5, 2000, 1)
	require.NoError(t, err)
	require.Greater(t, narrow.Low, a.Low)
	require.Less(t, narrow.High, a.High)

	// 200 groups of standard deviation 0.5: the interval of the mean is close to +-1.96*0.5/sqrt(200).
	many := make([][]float64, 200)
	for i := range many {
		many[i] = []float64{float64(i % 2)}
	}
	c, err := metrics.Bootstrap(many, 0.95, 5000, 7)
	require.NoError(t, err)
	require.InDelta(t, 0.5-0.0693, c.Low, 0.01)
	require.InDelta(t, 0.5+0.0693, c.High, 0.01)

	for _, bad := range []func() error{
		func() error { _, err := metrics.Bootstrap(nil, 0.95, 10, 1); return err },
		func() error { _, err := metrics.Bootstrap(groups, 1, 10, 1); return err },
		func() error { _, err := metrics.Bootstrap(groups, 0.95, 0, 1); return err },
	} {
		require.ErrorContains(t, bad(), "metrics: ")
	}
}
