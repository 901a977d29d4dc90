package unibiomed

import (
	"time"

	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
	"github.com/unibiomed/go-unibiomed/unibiomed/rle"
)

// Schema names the format of a Result in JSON.
const Schema = "unibiomed.result/1"

// A Result is one input's document. A result of one turn holds it at the top; one of several turns (several targets, or
// Analyze) lists them in Turns, and has all their findings at the top.
type Result struct {
	Schema string    `json:"schema"`
	Model  ModelRef  `json:"model"`
	Image  *ImageRef `json:"image,omitempty"`
	Turn
	Turns  []Turn `json:"turns,omitempty"`
	Notice string `json:"notice"`
}

// A ModelRef says which model answered.
type ModelRef struct {
	Name         string            `json:"name"`
	SHA256       string            `json:"sha256"` // of the source checkpoint
	Quantization map[string]string `json:"quantization"`
}

// An ImageRef says what the model saw.
type ImageRef struct {
	File   string   `json:"file,omitempty"`
	Files  []string `json:"files,omitempty"` // slices of a video, in order
	Width  int      `json:"width"`
	Height int      `json:"height"`
	Tiles  int      `json:"tiles"`
}

// A Stop says why an answer ended.
type Stop string

const (
	StopEnd    Stop = "end"    // the text ends with <|end|>
	StopEOS    Stop = "eos"    // the tokenizer's end token
	StopLength Stop = "length" // the limit of new tokens, or the context is full
)

// A Turn is one instruction and its answer.
type Turn struct {
	Task     string    `json:"task,omitempty"` // the verb: ask, segment, recognize, region, report
	Prompt   string    `json:"prompt"`         // as given or made from the template, <image> not expanded
	Answer   string    `json:"answer"`         // for people
	Raw      string    `json:"raw"`            // as generated, end marker included
	TokenIDs []int32   `json:"token_ids"`
	Stop     Stop      `json:"stop"`
	Findings []Finding `json:"findings"` // one a [SEG], in generation order
	Timings  Timings   `json:"timings_ms"`

	// Past is the text to hand to the next turn as past text.
	Past string `json:"-"`
	// PromptTokens is the length of the prompt, image embeddings included; PrefixTokens of them were already computed.
	PromptTokens int `json:"prompt_tokens"`
	PrefixTokens int `json:"prefix_tokens"`
}

// A Status says whether a mask shows anything.
type Status string

const (
	Present Status = "present"
	Empty   Status = "empty"
)

// A Finding is a phrase and what it points at, in the pixel grid of the input.
type Finding struct {
	Phrase       string        `json:"phrase"`
	Status       Status        `json:"status"`
	PredictedIoU float32       `json:"predicted_iou"` // the decoder's own estimate, 0 to 1
	ObjectScore  float32       `json:"object_score"`  // raw logit; never blanks a mask (spec/pitfalls.md P13)
	Selected     int32         `json:"selected"`      // which of the decoder's masks was taken
	AreaPx       int           `json:"area_px"`
	AreaMM2      *float64      `json:"area_mm2,omitempty"`
	BBox         [4]int        `json:"bbox"` // x, y, width, height; zeros when empty
	Mask         *MaskRef      `json:"mask,omitempty"`
	Slices       []SliceMask   `json:"slices,omitempty"` // of a video, instead of Mask
	Bits         *imaging.Mask `json:"-"`                // nil for a video: see Slices
}

// A SliceMask is a finding in one slice of a video.
type SliceMask struct {
	Slice        int           `json:"slice"`
	Tracked      bool          `json:"tracked"` // found by memory instead of by the prompt
	PredictedIoU float32       `json:"predicted_iou"`
	ObjectScore  float32       `json:"object_score"`
	Selected     int32         `json:"selected"`
	AreaPx       int           `json:"area_px"`
	BBox         [4]int        `json:"bbox"`
	Mask         *MaskRef      `json:"mask,omitempty"`
	Bits         *imaging.Mask `json:"-"`
}

// A MaskRef holds a mask in JSON: COCO run lengths, and the file that was written, if any, relative to the output folder.
type MaskRef struct {
	File string  `json:"file,omitempty"`
	RLE  rle.RLE `json:"rle"`
}

// Timings are milliseconds by stage: prepare, vision, prefill, decode, features, masks, resize, total.
type Timings map[string]float64

func (t Timings) add(stage string, since time.Time) {
	t[stage] += float64(time.Since(since).Microseconds()) / 1000
}

// stages is the sum of all stages, total left out.
func (t Timings) stages() (sum float64) {
	for stage, ms := range t {
		if stage != "total" {
			sum += ms
		}
	}
	return sum
}

// setMask fills what a mask says of a finding.
func (f *Finding) setMask(m *imaging.Mask) {
	f.Bits, f.AreaPx, f.BBox = m, m.Area(), bbox(m)
	f.Mask = &MaskRef{RLE: rle.Encode(m)}
	f.Status = status(f.AreaPx)
}

func status(area int) Status {
	if area == 0 {
		return Empty
	}
	return Present
}

func bbox(m *imaging.Mask) [4]int {
	r := m.Bounds()
	return [4]int{r.Min.X, r.Min.Y, r.Dx(), r.Dy()}
}
