package models

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/unibiomed/go-unibiomed/unibiomed"
	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint"
	"github.com/unibiomed/go-unibiomed/unibiomed/evaluation"
)

// trainingSet is the folder of the data set, or the test skips.
func trainingSet(t *testing.T) string {
	shared := os.Getenv("UNIBIOMED_SHARED")
	if shared == "" {
		shared = filepath.Join("..", "..", "shared")
	}
	dir := filepath.Join(shared, "data", "train")
	if _, err := os.Stat(filepath.Join(dir, "index.jsonl")); err != nil {
		t.Skip("no data set: put the shared folder beside the repository or set UNIBIOMED_SHARED")
	}
	return dir
}

// card is what the tests need of evaluation.json.
type card struct {
	SHA256 string                     `json:"sha256"`
	Tasks  map[string]json.RawMessage `json:"tasks"`
}

func readCard(t *testing.T) (c card) {
	data, err := os.ReadFile(filepath.Join(NanoName, "evaluation.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &c))
	return c
}

// The card's scores are those of the weights that ship.
func TestCardBelongsToTheModel(t *testing.T) {
	m, err := checkpoint.ReadModel(NanoName)
	require.NoError(t, err)
	require.Equal(t, m.Source.SHA256, readCard(t).SHA256, "run reference/ship.sh")
}

// followed is the smallest share of pairs that must get different masks: pairs of targets in different places of one image of which
// at least one got a mask with a pixel. Two empty masks are a failure too, but to find, and Dice counts them; CARD.md counts both over all pairs.
const followed = 0.9

// The same image with two different targets gives two different masks. Counted over every tenth image of the test split with such
// targets; `unibiomed eval` counts it over the whole split (CARD.md).
func TestAnswersFollowTheQuestion(t *testing.T) {
	if readCard(t).Tasks["segment"] == nil {
		t.Skip("these weights are not scored yet: run reference/ship.sh")
	}
	data, err := evaluation.OpenDataset(trainingSet(t), evaluation.DatasetOptions{Commercial: true})
	require.NoError(t, err)
	data.Samples = slices.DeleteFunc(data.Samples, func(s evaluation.Sample) bool { return len(s.Targets) < 2 })
	var some []evaluation.Sample
	for i := 0; i < len(data.Samples); i += 10 {
		some = append(some, data.Samples[i])
	}
	data.Samples = some
	p, err := OpenNano(t.Context(), unibiomed.Options{})
	require.NoError(t, err)
	defer p.Close()
	header, records, err := evaluation.Run{Dataset: data, Task: evaluation.Segment}.Do(t.Context(), p)
	require.NoError(t, err)
	s, err := evaluation.Summarize(header, records, evaluation.SummaryOptions{})
	require.NoError(t, err)
	require.Zero(t, s.Failed)
	f := s.Segmentation.Follows
	t.Logf("of %d pairs of targets %d have different masks, %d two empty ones", f.Pairs, f.Different, f.BothEmpty)
	require.Greater(t, f.Pairs, 20)
	drawn := f.Pairs - f.BothEmpty
	require.Greater(t, drawn, 10)
	require.GreaterOrEqual(t, float64(f.Different), followed*float64(drawn))
}
