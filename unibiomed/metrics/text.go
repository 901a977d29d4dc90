package metrics

import (
	"regexp"
	"strings"
)

var (
	tags   = regexp.MustCompile(`<.*?>`)
	spaces = regexp.MustCompile(`\s+`)
)

// CleanAnswer reduces the answer of a recognition task to its phrase as the official script does: newlines and double
// spaces go, then everything between angle brackets, and of the rest only what follows the last "[SEG]. " stays.
func CleanAnswer(text string) string {
	text = strings.ReplaceAll(text, "\n", "")
	text = strings.ReplaceAll(text, "  ", " ")
	text = tags.ReplaceAllString(text, "")
	if i := strings.LastIndex(text, "[SEG]. "); i >= 0 {
		text = text[i+len("[SEG]. "):]
	}
	return strings.TrimSpace(text)
}

// CleanCaption reduces a report or an interleaved answer to its words: everything between angle brackets and every [SEG]
// goes, and white space collapses to single spaces.
func CleanCaption(text string) string {
	text = tags.ReplaceAllString(text, "")
	text = strings.ReplaceAll(text, "[SEG]", "")
	return strings.TrimSpace(spaces.ReplaceAllString(text, " "))
}

// OfficialMatch is the official test of a recognition answer, after CleanAnswer: the true phrase and its full stop occur
// anywhere in the answer, case ignored.
func OfficialMatch(answer, truth string) bool {
	return strings.Contains(strings.ToLower(answer), strings.ToLower(truth+"."))
}

// OfficialContains is the official test of a grounded question, after CleanCaption: the true finding and its full stop
// occur anywhere in the answer, in the same case.
func OfficialContains(answer, truth string) bool { return strings.Contains(answer, truth+".") }

// StrictMatch asks for the true phrase and nothing else; case, white space at the ends and a final full stop do not
// matter.
func StrictMatch(answer, truth string) bool { return bare(answer) == bare(truth) }

func bare(s string) string {
	s = spaces.ReplaceAllString(strings.TrimSpace(strings.ToLower(s)), " ")
	return strings.TrimSpace(strings.TrimSuffix(s, "."))
}

// A Recognition collects the answers of a grounded recognition task. The zero value is ready to use. It is not safe for
// concurrent use.
type Recognition struct {
	images, counted, officialRight, strictRight int
	officialDice, strictDice                    float64
}

// Add scores one image: the raw answer, the true phrase, and the masks of both. The official accuracy leaves out images
// whose numbers of masks differ; the official mask score and the strict scores do not.
func (r *Recognition) Add(answer, truth string, predicted, expected int, masks Matched) {
	answer = CleanAnswer(answer)
	r.images++
	if predicted == expected {
		r.counted++
		if OfficialMatch(answer, truth) {
			r.officialRight++
		}
	}
	if StrictMatch(answer, truth) {
		r.strictRight++
	}
	r.officialDice += masks.Official
	r.strictDice += masks.Strict
}

// A RecognitionScore sums up a dataset; scores run from 0 to 1.
type RecognitionScore struct {
	Accuracy, MeanDice float64
	Images             int // that count towards Accuracy
}

// Official returns the scores of the official script.
func (r *Recognition) Official() RecognitionScore {
	return RecognitionScore{float64(r.officialRight) / (float64(r.counted) + tiny), over(r.officialDice, r.images), r.counted}
}

// Strict returns the scores over all images.
func (r *Recognition) Strict() RecognitionScore {
	return RecognitionScore{over(float64(r.strictRight), r.images), over(r.strictDice, r.images), r.images}
}

func over(sum float64, n int) float64 {
	if n == 0 {
		return 0
	}
	return sum / float64(n)
}

// OfficialRegion is the official test of a region answer such as "liver in abdomen ct": equal targets, sides left out,
// and a modality that contains the true one. The target is what stands before " in ", the modality is the last word.
func OfficialRegion(answer, truth string) bool {
	target, modality := region(answer)
	wantTarget, wantModality := region(truth)
	return target == wantTarget && strings.Contains(modality, wantModality)
}

func region(s string) (target, modality string) {
	s = bare(tags.ReplaceAllString(s, ""))
	target, _, _ = strings.Cut(s, " in ")
	target = strings.ReplaceAll(strings.ReplaceAll(target, "right ", ""), "left ", "")
	if words := strings.Fields(s); len(words) > 0 {
		modality = words[len(words)-1]
	}
	return strings.TrimSpace(target), modality
}
