package evaluation

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/unibiomed/go-unibiomed/unibiomed"
	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
)

// Training images have a bright square, and a bright speck elsewhere; in the test image the square has moved.
func TestBaselines(t *testing.T) {
	dir := t.TempDir()
	square := func(x0, y0 int) (img, m string) {
		rgb, truth := imaging.NewRGB(64, 64), imaging.NewMask(64, 64)
		for y := range 64 {
			for x := range 64 {
				inside := x >= x0 && x < x0+20 && y >= y0 && y < y0+20
				if inside {
					truth.Pix[64*y+x] = 1
				}
				if inside || x > 60 && y > 60 {
					copy(rgb.Pix[3*(64*y+x):], []byte{200, 200, 200})
				}
			}
		}
		var b bytes.Buffer
		require.NoError(t, rgb.EncodePNG(&b))
		return b.String(), png(t, truth)
	}
	index := ""
	for i, at := range [][2]int{{10, 10}, {10, 10}, {10, 10}, {10, 20}} {
		img, m := square(at[0], at[1])
		split := "train"
		if i == 3 {
			split = "test"
		}
		index += fmt.Sprintf(`{"image": "%d.png", "modality": "CT", "split": %q, "targets": [{"phrase": "square in abdomen CT", "mask": "%d__square.png"}]}`+"\n", i, split, i)
		write(t, dir, map[string]string{fmt.Sprintf("%d.png", i): img, fmt.Sprintf("%d__square.png", i): m})
	}
	write(t, dir, map[string]string{"index.jsonl": index})
	train, err := OpenDataset(dir, DatasetOptions{Split: "train"})
	require.NoError(t, err)
	b, err := FitBaselines(t.Context(), train, nil)
	require.NoError(t, err)
	require.Equal(t, otsuVariant{dark: false, largest: true}, b.otsu["square in abdomen CT"], "the speck is not part of it")

	test, err := OpenDataset(dir, DatasetOptions{})
	require.NoError(t, err)
	records := []Record{{ID: "3.png", Group: "g", Modality: "CT", Items: []Item{{Phrase: "square in abdomen CT", Segs: 1, Pixels: &Pixels{400, 400, 400}}}}}
	require.NoError(t, b.Fill(t.Context(), test.Samples, records))
	require.Equal(t, &Pixels{400, 400, 400}, records[0].Items[0].Baselines[Otsu])
	require.Equal(t, &Pixels{400, 400, 200}, records[0].Items[0].Baselines[MeanMask], "the mean stands where the training squares stood")

	s, err := Summarize(Header{Task: Segment}, records, SummaryOptions{})
	require.NoError(t, err)
	require.Equal(t, 0.5, s.Segmentation.Baselines[MeanMask].Dice.Mean)
	require.Equal(t, 0.5, s.Segmentation.Baselines[MeanMask].ModalityDice)
	require.Equal(t, 1.0, s.ByModality[0].Baselines[Otsu].Mean)
	require.Equal(t, 1.0, s.Segmentation.Strict.ModalityDice)
}

func TestOtsuThreshold(t *testing.T) {
	var h [256]int
	h[20], h[30], h[200], h[210] = 50, 50, 30, 30
	require.Equal(t, 30, otsuThreshold(h))
	require.Equal(t, 0, otsuThreshold([256]int{7: 9}), "one grey value has no two classes")
}

func TestKeepLargest(t *testing.T) {
	m := mask("##..#", "....#", "...#.", "#....")
	keepLargest(m)
	require.Equal(t, mask("....#", "....#", "...#.", ".....").Pix, m.Pix, "corners connect")
	empty := mask("...")
	keepLargest(empty)
	require.Zero(t, empty.Area())
}

// A foreign phrase is of another modality, and its name is none of the image's modality.
func TestForeign(t *testing.T) {
	phrases := []string{"liver in abdomen CT", "tumor in brain MRI-T1", "tumor in liver CT", "aorta in cardiac MRI", "lesion in skin dermoscopy"}
	drawn := map[string]bool{}
	for i := range 40 {
		s := Sample{ID: fmt.Sprint(i), Modality: "MRI-T2"}
		drawn[foreign(s, phrases)] = true
		require.Equal(t, foreign(s, phrases), foreign(s, phrases))
	}
	require.Equal(t, map[string]bool{"liver in abdomen CT": true, "lesion in skin dermoscopy": true}, drawn)
	require.Empty(t, foreign(Sample{ID: "a", Modality: "CT"}, []string{"liver in abdomen CT"}))
	require.Empty(t, foreign(Sample{ID: "a"}, phrases), "the modality is unknown")
}

// answers are results in words.
func answers(raw ...string) []*unibiomed.Result {
	var out []*unibiomed.Result
	for _, text := range raw {
		out = append(out, &unibiomed.Result{Turn: unibiomed.Turn{Raw: text}})
	}
	return out
}

func TestPresence(t *testing.T) {
	s := Sample{ID: "a.png", Modality: "CT", Targets: []Target{{Phrase: "liver in abdomen CT"}}, Absent: []string{"tumor in liver CT"}, Foreign: "polyp in colon endoscope"}
	require.True(t, Presence.Asks(s))
	results := []string{"Yes.<|end|>", "No.<|end|>", "Yes, there is.<|end|>"}
	items, err := Presence.Score(s, answers(results...))
	require.NoError(t, err)
	require.True(t, items[2].Foreign)
	sum, err := Summarize(Header{Task: Presence}, []Record{{ID: "a.png", Modality: "CT", Items: items}}, SummaryOptions{})
	require.NoError(t, err)
	require.InDelta(t, 2.0/3, sum.Presence.Mean, 1e-12)
	require.Equal(t, 1.0, sum.Absent.Mean)
	require.Equal(t, 0.0, sum.Foreign.Mean)
	require.Equal(t, &ClassScores{Count: 2, Balanced: 0.75, Majority: 2.0 / 3, MajorityAnswer: "no"}, sum.Classes)

	for answer, want := range map[string][2]bool{"Yes.": {true, true}, "no": {false, true}, "": {false, false}, "Nothing.": {false, false}, "It is [SEG].": {false, false}} {
		yes, ok := saysYes(answer)
		require.Equal(t, want, [2]bool{yes, ok}, answer)
	}
	_, err = Presence.Score(s, answers("Yes."))
	require.ErrorContains(t, err, "1 results, want 3")
}
