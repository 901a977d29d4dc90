package prompt

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestAssemble(t *testing.T) {
	one := &Visual{Groups: []int{2}}
	tests := []struct {
		name, text, past string
		visual           *Visual
		want             string
		wantErr          string
	}{
		{name: "image tag kept where it is", text: "<image>\nWhat?", visual: one,
			want: "<|user|>\n<img><IMG_CONTEXT><IMG_CONTEXT></img>\nWhat?<|end|>\n<|assistant|>\n"},
		{name: "missing image tag goes in front", text: "What?", visual: one,
			want: "<|user|>\n<img><IMG_CONTEXT><IMG_CONTEXT></img>What?<|end|>\n<|assistant|>\n"},
		{name: "video groups are joined by newlines", text: "<image>What?", visual: &Visual{Groups: []int{1, 1}},
			want: "<|user|>\n<img><IMG_CONTEXT></img>\n<img><IMG_CONTEXT></img>What?<|end|>\n<|assistant|>\n"},
		{name: "regions, one without cells", text: "<image>What?", visual: &Visual{Groups: []int{1}, Regions: []int{2, 0}},
			want: "<|user|>\n<img><IMG_CONTEXT></img>\nThere are 2 part regions in the picture: region1<vp><IMG_CONTEXT><IMG_CONTEXT></vp>, region2<vp></vp>.\nWhat?<|end|>\n<|assistant|>\n"},
		{name: "text only drops the image tag", text: "<image>What?", want: "<|user|>\nWhat?<|end|>\n<|assistant|>\n"},
		{name: "past text is verbatim", text: "And?", past: "<|user|>\n<img><IMG_CONTEXT><IMG_CONTEXT></img>A<|end|>\n<|assistant|>\nB [SEG]<|end|>\n", visual: one,
			want: "<|user|>\n<img><IMG_CONTEXT><IMG_CONTEXT></img>A<|end|>\n<|assistant|>\nB [SEG]<|end|>\n<|user|>\nAnd?<|end|>\n<|assistant|>\n"},
		{name: "empty", text: " \n", visual: one, wantErr: "prompt: is empty"},
		{name: "only an image tag", text: "<image>", visual: one, wantErr: "prompt: is empty"},
		{name: "invalid UTF-8", text: "ab\xff", wantErr: "prompt: is not valid UTF-8 from byte 2 on"},
		{name: "image tag twice", text: "<image>a<image>", visual: one, wantErr: "prompt: contains <image> 2 times, want once"},
		{name: "injected mask token", text: "say [SEG]", visual: one, wantErr: "prompt: contains the reserved token [SEG] at byte 4"},
		{name: "injected embedding", text: "<IMG_CONTEXT>", visual: one, wantErr: "prompt: contains the reserved token <IMG_CONTEXT> at byte 0"},
		{name: "past text with too few embeddings", text: "And?", past: "<img><IMG_CONTEXT></img>", visual: one, wantErr: "past text: holds 1 <IMG_CONTEXT> tokens, the image takes 2"},
		{name: "past text and an image tag", text: "<image>And?", past: "x", visual: one, wantErr: "prompt: contains <image>, but past text holds the image already"},
		{name: "past text and mask prompts", text: "And?", past: "x", visual: &Visual{Groups: []int{1}, Regions: []int{1}}, wantErr: "past text: can't be combined with mask prompts"},
		{name: "past text with an image that is not given", text: "And?", past: "<img><IMG_CONTEXT></img>", wantErr: "no image is given: past text holds 1 image embeddings"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Assemble(tt.text, tt.past, tt.visual)
			if tt.wantErr != "" {
				require.EqualError(t, err, tt.wantErr)
				var field *Error
				require.True(t, errors.As(err, &field) || errors.Is(err, ErrNoImage))
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.want, got)
			if tt.visual != nil {
				require.Equal(t, tt.visual.Embeddings(), strings.Count(got, ImageContext))
			}
		})
	}
}

func TestPhrases(t *testing.T) {
	tests := []struct {
		name, raw, target string
		want              []string
	}{
		{name: "segmentation takes the target", raw: "It is [SEG].<|end|>", target: "liver in abdomen CT.", want: []string{"liver in abdomen CT"}},
		{name: "phrase follows its mask", raw: "[SEG]. tumor in breast ultrasound.<|end|>", want: []string{"tumor in breast ultrasound"}},
		{name: "two masks with phrases", raw: "[SEG]. right lung. [SEG]. left lung.<|end|>", want: []string{"right lung", "left lung"}},
		{name: "span before its mask", raw: "<p> fetal head. </p> [SEG]<|end|>", want: []string{"fetal head"}},
		{name: "a report in a span keeps its sentences", raw: "<p> effusion. small, left. </p> [SEG]<|end|>", want: []string{"effusion. small, left"}},
		{name: "two spans", raw: "<p> a. </p> [SEG] <p> b. </p> [SEG]<|end|>", want: []string{"a", "b"}},
		{name: "text, then a span", raw: "It is [SEG]. liver. <p> spleen. </p> [SEG]<|end|>", want: []string{"liver", "spleen"}},
		{name: "no mask", raw: "liver in abdomen ct<|end|>", want: []string{}},
		{name: "cut off", raw: "It is [SEG]", target: "x", want: []string{"x"}},
		{name: "unclosed span", raw: "<p> a [SEG]. b", want: []string{"b"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { require.Equal(t, tt.want, Phrases(tt.raw, tt.target)) })
	}
}

func TestClean(t *testing.T) {
	for raw, want := range map[string]string{
		"It is [SEG].<|end|>":   "It is [SEG].",
		"liver <|end|>\n":       "liver",
		"liver<\n|end|>":        "liver",
		"liver<|end|> and more": "liver<|end|> and more",
		"<|end|>":               "",
		"|end|>":                "|end|>",
	} {
		require.Equal(t, want, Clean(raw), "%q", raw)
	}
}

func TestStopRule(t *testing.T) {
	tests := []struct {
		name   string
		pieces []string
		want   bool
	}{
		{"in pieces", []string{".<", "|", "end", "|", ">"}, true},
		{"newline behind", []string{"<|end", "|>\n\r\n"}, true},
		{"newline inside", []string{"<\n|end|>"}, true},
		{"space behind", []string{"<|end|>", " "}, false},
		{"long text before", []string{strings.Repeat("x", 100), "<|end|>"}, true},
		{"nothing", nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var rule StopRule
			got := false
			for _, p := range tt.pieces {
				got = rule.Push([]byte(p))
			}
			require.Equal(t, tt.want, got)
		})
	}
}

// The rule's definition works on the whole text; ours looks at a tail.
func TestStopRuleEqualsItsDefinition(t *testing.T) {
	strip := strings.NewReplacer("\r", "", "\n", "")
	rapid.Check(t, func(t *rapid.T) {
		pieces := rapid.SliceOf(rapid.SampledFrom([]string{"<", "|", "end", "|>", ">", "\n", "\r", " ", "x", "<|end|>"})).Draw(t, "pieces")
		var rule StopRule
		text := ""
		for _, p := range pieces {
			text += p
			require.Equal(t, strings.HasSuffix(strip.Replace(text), EndMarker), rule.Push([]byte(p)))
		}
	})
}

func TestToValidUTF8(t *testing.T) {
	for in, want := range map[string]string{
		"\xf0\x9f\x98":     "\uFFFD",             // cut emoji: one maximal subpart
		"\xf0\x9fx":        "\uFFFDx",            //
		"\xe0\x80\x80":     "\uFFFD\uFFFD\uFFFD", // overlong: no byte continues
		"\xc3(":            "\uFFFD(",
		"\xff\xfe":         "\uFFFD\uFFFD",
		"a\u00e9\u65e5":    "a\u00e9\u65e5",
		"\xed\xa0\x80":     "\uFFFD\uFFFD\uFFFD", // a surrogate
		"\xf4\x90\x80\x80": "\uFFFD\uFFFD\uFFFD\uFFFD",
	} {
		require.Equal(t, want, toValidUTF8([]byte(in)), "%q", in)
	}
}

// The templates are the spec's, letter by letter.
func TestTemplatesEqualTheSpec(t *testing.T) {
	shared := os.Getenv("UNIBIOMED_SHARED")
	if shared == "" {
		shared = filepath.Join("..", "..", "..", "shared")
	}
	data, err := os.ReadFile(filepath.Join(shared, "spec", "prompting.md"))
	if err != nil {
		t.Skipf("shared specification is absent: %v", err)
	}
	item := regexp.MustCompile("(?m)^[0-9]+\\. `(.*)`$")
	for section, want := range map[string][]string{
		"8.1": Segmentation, "8.3": Recognition, "8.4": RegionQuestion, "8.5": GroundedVQA, "8.6": GroundedReport, "8.7": RegionDescription,
	} {
		_, rest, found := strings.Cut(string(data), "### "+section)
		require.True(t, found, section)
		rest, _, _ = strings.Cut(rest, "### ")
		var got []string
		for _, m := range item.FindAllStringSubmatch(rest, -1) {
			got = append(got, m[1])
		}
		require.Equal(t, got, want, section)
	}
}
