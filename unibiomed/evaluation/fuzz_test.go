package evaluation

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"

	"github.com/unibiomed/go-unibiomed/unibiomed"
)

// FuzzParseResult: what is accepted is written and accepted again, and scoring it does not fail unexpectedly.
func FuzzParseResult(f *testing.F) {
	f.Add([]byte(document(f, square)))
	f.Add([]byte(document(f, square, mask("....", "....", "...."))))
	f.Add([]byte(`{"schema":"unibiomed.result/1","image":{"width":60000,"height":60000},"stop":"end","findings":[{"mask":{"rle":{"size":[60000,60000],"counts":[3600000000]}},"status":"empty"}]}`))
	f.Add([]byte(`{"schema":"unibiomed.result/1","turns":[{"stop":"eos"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseResult(data)
		if err != nil {
			var typed *ResultError
			if !errors.As(err, &typed) {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseResult(again); err != nil {
			t.Fatalf("%v\n%s", err, again)
		}
		if r.Image != nil && r.Image.Width*r.Image.Height <= 1<<16 {
			if err := Masks(r, r.Image.Width, r.Image.Height); err != nil {
				t.Fatal(err)
			}
			s := Sample{ID: "a", Findings: "no findings"}
			Recognize.Score(s, []*unibiomed.Result{r})
		}
	})
}

func FuzzReadJournal(f *testing.F) {
	f.Add([]byte("{\"schema\":\"unibiomed.evaluation.items/1\",\"task\":\"segment\"}\n{\"id\":\"a\",\"items\":[{\"phrase\":\"x\",\"pixels\":{\"pred\":2,\"truth\":3,\"both\":1}}]}\n{\"id\""))
	f.Add([]byte("{\"schema\":\"unibiomed.evaluation.items/1\",\"task\":\"recognize\"}\n{\"id\":\"a\",\"items\":[{\"segs\":1,\"expected\":1,\"official\":1}]}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, records, err := ReadJournal(bytes.NewReader(data), "items.ndjson")
		if err != nil {
			return
		}
		s, err := Summarize(h, records, SummaryOptions{Rounds: 2})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := json.Marshal(s); err != nil { // no NaN
			t.Fatal(err)
		}
	})
}

func FuzzDatasets(f *testing.F) {
	f.Add([]byte(annotations))
	f.Add([]byte(index))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, parse := range []func(d *Dataset) error{
			func(d *Dataset) error { return d.parseBiomedParse("test.json", data, "test") },
			func(d *Dataset) error { return d.parseIndex("index.jsonl", data, DatasetOptions{Split: "test"}) },
		} {
			d := &Dataset{}
			if err := parse(d); err != nil {
				var typed *DatasetError
				if !errors.As(err, &typed) {
					t.Fatalf("%T: %v", err, err)
				}
				continue
			}
			for _, s := range d.Samples {
				for _, task := range Tasks() {
					task.Asks(s)
				}
			}
		}
	})
}
