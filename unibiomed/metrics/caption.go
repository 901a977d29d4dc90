package metrics

import (
	"math"
	"strings"
	"unicode"
)

// A Caption is a generated text and its reference.
type Caption struct{ Text, Truth string }

// A CaptionScore holds BLEU-1 to BLEU-4 of a corpus and its mean ROUGE-L, from 0 to 1.
type CaptionScore struct {
	BLEU   [4]float64
	ROUGEL float64
}

// ScoreCaptions computes BLEU (Papineni et al. 2002; counts and lengths summed over the corpus) and ROUGE-L (Lin 2004; F
// with beta 1.2, mean over texts) with the smoothing of the COCO caption toolkit.
//
// Words are runs of letters, digits and inner apostrophes, hyphens or decimal points, in lower case; punctuation does not
// count. The toolkit's Penn Treebank tokenizer splits a few words otherwise, so that scores may differ from it slightly.
func ScoreCaptions(captions []Caption) CaptionScore {
	var s CaptionScore
	var right, guessed [4]float64
	textLen, truthLen := 0.0, 0.0
	for _, c := range captions {
		text, truth := words(c.Text), words(c.Truth)
		textLen, truthLen = textLen+float64(len(text)), truthLen+float64(len(truth))
		for n := range 4 {
			r, g := sharedGrams(text, truth, n+1)
			right[n], guessed[n] = right[n]+float64(r), guessed[n]+float64(g)
		}
		s.ROUGEL += rougeL(text, truth)
	}
	if len(captions) == 0 {
		return s
	}
	s.ROUGEL /= float64(len(captions))
	const small, smaller = 1e-9, 1e-15
	brevity := 1.0
	if ratio := (textLen + smaller) / (truthLen + small); ratio < 1 {
		brevity = math.Exp(1 - 1/ratio)
	}
	product := 1.0
	for n := range 4 {
		product *= (right[n] + smaller) / (guessed[n] + small)
		s.BLEU[n] = math.Pow(product, 1/float64(n+1)) * brevity
	}
	return s
}

// words splits a text for captions.
func words(s string) []string {
	r := []rune(strings.ToLower(s))
	word := func(i int) bool { return i >= 0 && i < len(r) && (unicode.IsLetter(r[i]) || unicode.IsDigit(r[i])) }
	var out []string
	start := -1
	for i := 0; i <= len(r); i++ {
		inner := i < len(r) && word(i-1) && word(i+1) && (r[i] == '\'' || r[i] == '-' || r[i] == '.' && unicode.IsDigit(r[i-1]))
		switch {
		case word(i) || inner:
			if start < 0 {
				start = i
			}
		case start >= 0:
			out = append(out, string(r[start:i]))
			start = -1
		}
	}
	return out
}

// sharedGrams returns how many n-grams of text occur in truth, each at most as often as there, and how many there are.
func sharedGrams(text, truth []string, n int) (right, guessed int) {
	left := map[string]int{}
	for i := range max(0, len(truth)-n+1) {
		left[strings.Join(truth[i:i+n], " ")]++
	}
	guessed = max(0, len(text)-n+1)
	for i := range guessed {
		gram := strings.Join(text[i:i+n], " ")
		if left[gram] > 0 {
			left[gram]--
			right++
		}
	}
	return right, guessed
}

// rougeL is the F measure of the longest common subsequence.
func rougeL(text, truth []string) float64 {
	if len(text) == 0 || len(truth) == 0 {
		return 0
	}
	// One row of the usual table: longest[j] is the length for the words so far and truth[:j].
	longest := make([]int, len(truth)+1)
	for _, w := range text {
		diagonal := 0
		for j, v := range truth {
			up := longest[j+1]
			if w == v {
				longest[j+1] = diagonal + 1
			} else {
				longest[j+1] = max(up, longest[j])
			}
			diagonal = up
		}
	}
	common := float64(longest[len(truth)])
	if common == 0 {
		return 0
	}
	const beta2 = 1.2 * 1.2
	precision, recall := common/float64(len(text)), common/float64(len(truth))
	return (1 + beta2) * precision * recall / (recall + beta2*precision)
}
