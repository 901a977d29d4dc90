package main

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFallback(t *testing.T) {
	row := func(stage, operation, device string) operationCount {
		return operationCount{stage, operation, device, 3}
	}
	gpu := []operationCount{row("decode", "GET_ROWS", "cpu"), row("decode", "MUL_MAT", "cuda0"), row("vision", "MUL_MAT", "cuda0")}
	for _, c := range []struct {
		name, device string
		operations   []operationCount
		want         string
	}{
		{"a CPU alone", "auto", []operationCount{row("vision", "MUL_MAT", "cpu")}, ""},
		{"a CPU by name", "cpu", []operationCount{row("vision", "MUL_MAT", "cpu")}, ""},
		{"all on the GPU but the embedding table", "auto", gpu, ""},
		{"all on the GPU, by name", "cuda0", gpu, ""},
		{"a pooling on the CPU", "auto", append([]operationCount{row("features", "POOL_2D", "cpu")}, gpu...),
			"the CPU computed what cuda0 should have: features POOL_2D (3 times)"},
		{"rows looked up on the CPU by another stage", "cuda0", append([]operationCount{row("masks", "GET_ROWS", "cpu")}, gpu...),
			"the CPU computed what cuda0 should have: masks GET_ROWS (3 times)"},
		{"all on the CPU though a GPU was named", "cuda0", []operationCount{row("vision", "NORM", "cpu")},
			"the CPU computed what cuda0 should have: vision NORM (3 times)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := &benchDocument{Device: c.device, Operations: c.operations}
			if err := d.checkFallback(); c.want == "" {
				require.NoError(t, err)
			} else {
				require.EqualError(t, err, c.want)
			}
			var out bytes.Buffer
			require.NoError(t, d.printOperations(&out))
			for _, o := range c.operations {
				require.Contains(t, out.String(), o.Operation)
			}
		})
	}
}
