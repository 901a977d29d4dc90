package unibiomed

import (
	"github.com/unibiomed/go-unibiomed/bindings"
	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint"
)

// Quantizer packs weights with the native library, on threads CPU threads (0: all cores): for checkpoint.Options.
func Quantizer(threads int) checkpoint.Quantizer {
	return checkpoint.QuantizerFunc(func(typ string, src []float32, rows, rowLength int, dst []byte) error {
		return bindings.Quantize(typ, src, rows, rowLength, dst, threads)
	})
}
