// Package prompt turns an instruction about an image into the token sequence that the model was trained to read, and
// an answer back into text, phrases and masks.
//
// Everything here follows spec/prompting.md. The markers of the chat template are ordinary text that merges with its
// neighbours, so a prompt is assembled as one string and tokenised as a whole.
package prompt

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The literal strings of the template (spec/prompting.md 1 and 2).
const (
	ImagePlaceholder = "<image>"
	EndMarker        = "<|end|>"
	ImageContext     = "<IMG_CONTEXT>"
	ImageStart       = "<img>"
	ImageEnd         = "</img>"
	Seg              = "[SEG]"
	RegionStart      = "<vp>"
	RegionEnd        = "</vp>"
)

// guarded are the added tokens that an instruction may not contain: they would take the place of an image, a region or
// an answer. The tags <p>, <ref> and <box> are left to the tokenizer, as in the reference.
var guarded = []string{ImageContext, Seg, ImageStart, ImageEnd, RegionStart, RegionEnd}

// An Error is an instruction or past text that can't become a prompt.
type Error struct {
	Field string // "prompt" or "past text"
	Msg   string
}

func (e *Error) Error() string { return e.Field + ": " + e.Msg }

// ErrNoImage is wrapped by the error for an instruction that names an image when none is given.
var ErrNoImage = errors.New("no image is given")

// A Visual says how many embeddings the image part of a prompt takes.
type Visual struct {
	// Groups holds the embeddings of each <img> group: one group for an image (all its tiles), one a slice for a video.
	Groups []int
	// Regions holds the selected cells of each mask prompt (spec/prompting.md 4). Only for a single group.
	Regions []int
}

// Embeddings is the number of <IMG_CONTEXT> tokens that the visual part takes.
func (v Visual) Embeddings() int {
	n := 0
	for _, g := range v.Groups {
		n += g
	}
	for _, k := range v.Regions {
		n += k
	}
	return n
}

// expand writes the text that stands in for <image>.
func (v Visual) expand() string {
	var b strings.Builder
	for i, n := range v.Groups {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(ImageStart)
		for range n {
			b.WriteString(ImageContext)
		}
		b.WriteString(ImageEnd)
	}
	if len(v.Regions) > 0 {
		b.WriteString("\nThere are " + strconv.Itoa(len(v.Regions)) + " part regions in the picture: ")
		for i, k := range v.Regions {
			if i > 0 {
				b.WriteString(", ")
			}
			b.WriteString("region" + strconv.Itoa(i+1) + RegionStart)
			for range k {
				b.WriteString(ImageContext)
			}
			b.WriteString(RegionEnd)
		}
		b.WriteString(".\n")
	}
	return b.String()
}

// Turn wraps an instruction in the chat template.
func Turn(input string) string { return "<|user|>\n" + input + EndMarker + "\n<|assistant|>\n" }

// Past returns the text of a finished turn, for the past text of the next one: prompt as Assemble returned it, and the
// answer as generated. Our convention is that past text ends with "<|end|>\n" (spec/pitfalls.md D).
func Past(assembled, raw string) string {
	raw = strings.TrimRight(raw, "\r\n")
	if !strings.HasSuffix(raw, EndMarker) {
		raw += EndMarker
	}
	return assembled + raw + "\n"
}

// Assemble returns the whole prompt as one string.
//
// Without visual it is a text-only turn: <image> is removed. With visual, <image> is put in front of text when it is
// missing and there is no past text; it must then occur exactly once. Past text is used verbatim and holds the expanded image
// itself, so text must not contain <image> and the embeddings in past text must be as many as visual has.
func Assemble(text, past string, visual *Visual) (string, error) {
	if !utf8.ValidString(text) {
		return "", &Error{"prompt", "is not valid UTF-8 from byte " + strconv.Itoa(firstInvalid(text)) + " on"}
	}
	if !utf8.ValidString(past) {
		return "", &Error{"past text", "is not valid UTF-8 from byte " + strconv.Itoa(firstInvalid(past)) + " on"}
	}
	if strings.TrimSpace(strings.ReplaceAll(text, ImagePlaceholder, "")) == "" {
		return "", &Error{"prompt", "is empty"}
	}
	for _, token := range guarded {
		if i := strings.Index(text, token); i >= 0 {
			return "", &Error{"prompt", fmt.Sprintf("contains the reserved token %s at byte %d", token, i)}
		}
	}
	count := strings.Count(text, ImagePlaceholder)

	if visual == nil {
		if n := strings.Count(past, ImageContext); n > 0 {
			return "", fmt.Errorf("%w: past text holds %d image embeddings", ErrNoImage, n)
		}
		return past + Turn(strings.ReplaceAll(text, ImagePlaceholder, "")), nil
	}
	if past != "" {
		if len(visual.Regions) > 0 {
			return "", &Error{"past text", "can't be combined with mask prompts"}
		}
		if count > 0 {
			return "", &Error{"prompt", "contains <image>, but past text holds the image already"}
		}
		if n, want := strings.Count(past, ImageContext), visual.Embeddings(); n != want {
			return "", &Error{"past text", fmt.Sprintf("holds %d %s tokens, the image takes %d", n, ImageContext, want)}
		}
		return past + Turn(text), nil
	}
	switch {
	case count == 0:
		text = ImagePlaceholder + text
	case count > 1:
		return "", &Error{"prompt", fmt.Sprintf("contains <image> %d times, want once", count)}
	}
	return Turn(strings.Replace(text, ImagePlaceholder, visual.expand(), 1)), nil
}

func firstInvalid(s string) int {
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n <= 1 {
			return i
		}
		i += n
	}
	return len(s)
}
