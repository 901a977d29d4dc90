package main

import (
	"fmt"
	"io"

	"github.com/unibiomed/go-unibiomed/bindings"
)

// A planDocument is a memory plan in JSON, in bytes.
type planDocument struct {
	WeightsLanguage  uint64 `json:"weights_language"`
	WeightsVision    uint64 `json:"weights_vision"`
	WeightsGrounding uint64 `json:"weights_grounding"`
	KVCache          uint64 `json:"kv_cache"`
	ComputeLanguage  uint64 `json:"compute_language"`
	ComputeVision    uint64 `json:"compute_vision"`
	ComputeFeatures  uint64 `json:"compute_features"`
	ComputeMasks     uint64 `json:"compute_masks"`
	ComputeMemory    uint64 `json:"compute_memory"`
	Features         uint64 `json:"features"`
	Total            uint64 `json:"total"`
	Available        uint64 `json:"available"`
}

func newPlanDocument(p bindings.Plan) *planDocument {
	d := planDocument(p)
	return &d
}

// print writes the plan as rows of a table. The working buffers follow each other, so the total is not their sum.
func (p *planDocument) print(w io.Writer) {
	for _, row := range []struct {
		name  string
		bytes uint64
	}{
		{"weights of the language model", p.WeightsLanguage},
		{"weights of the vision tower", p.WeightsVision},
		{"weights of SAM 2", p.WeightsGrounding},
		{"key and value cache", p.KVCache},
		{"working buffer, language model", p.ComputeLanguage},
		{"working buffer, vision tower", p.ComputeVision},
		{"working buffer, SAM 2 image encoder", p.ComputeFeatures},
		{"working buffer, mask decoder", p.ComputeMasks},
		{"working buffer, memory (volumes only)", p.ComputeMemory},
		{"features of an image", p.Features},
		{"planned peak of an answer", p.Total},
		{"available", p.Available},
	} {
		fmt.Fprintf(w, "%s\t%s\n", row.name, bytesText(row.bytes))
	}
}
