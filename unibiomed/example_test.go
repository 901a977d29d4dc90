package unibiomed_test

import (
	"context"
	"fmt"
	"log"

	"github.com/unibiomed/go-unibiomed/models"
	"github.com/unibiomed/go-unibiomed/unibiomed"
	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
)

// Example is the program in the README.
func Example() {
	ctx := context.Background()
	p, err := models.OpenNano(ctx, unibiomed.Options{}) // or unibiomed.Open(ctx, "unibiomed-1b-q8_0", unibiomed.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()

	img, err := imaging.DecodeFile("models/examples/fundus.jpg", imaging.Options{})
	if err != nil {
		log.Fatal(err)
	}
	res, err := p.Segment(ctx, unibiomed.Input{Image: img}, []string{"optic disc in retinal fundus"}, unibiomed.Observers{})
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range res.Findings {
		fmt.Println(f.Phrase, f.Status, f.AreaPx, f.BBox) // f.Bits is the mask
	}
}
