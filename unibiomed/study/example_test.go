package study_test

import (
	"context"
	"fmt"
	"log"

	"github.com/unibiomed/go-unibiomed/unibiomed/dicom"
	"github.com/unibiomed/go-unibiomed/unibiomed/seg"
	"github.com/unibiomed/go-unibiomed/unibiomed/study"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
	"github.com/unibiomed/go-unibiomed/unibiomed/window"
)

// This goes through the axial slices of a CT as the model would see them, and writes what is brighter than half as a
// segmentation that viewers lay over the CT.
func Example() {
	s, err := study.Open(context.Background(), "ct-folder", study.Options{})
	if err != nil {
		log.Fatal(err)
	}
	item := s.Items[0]
	show, err := window.Choose(item.Volume, "auto")
	if err != nil {
		log.Fatal(err)
	}
	view, err := item.View(volume.Axial)
	if err != nil {
		log.Fatal(err)
	}
	mask := volume.NewMask(item.Dims)
	values := make([]float32, view.Columns*view.Rows*item.Channels)
	rgb, inside := make([]uint8, 3*view.Columns*view.Rows), make([]uint8, view.Columns*view.Rows)
	for n := range view.Slices {
		if err := view.ReadSlice(n, values); err != nil {
			log.Fatal(err)
		}
		if err := show.RGB(values, item.Channels, rgb); err != nil {
			log.Fatal(err)
		}
		for i := range inside {
			inside[i] = rgb[3*i] >> 7
		}
		if err := view.PutMask(mask, n, inside); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Printf("%.1f ml, shown as %s\n", float64(mask.Count())*item.VoxelML(), show)
	err = seg.Write("bright.dcm", item.Stack, []volume.Label{{Name: "bright tissue", Mask: mask}},
		seg.Options{Derivation: dicom.Derivation{Software: "example", Version: "1"}})
	if err != nil {
		log.Fatal(err)
	}
}
