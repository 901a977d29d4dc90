package prompt

import "strings"

// Clean returns an answer for people: the raw text without the end marker and surrounding white space.
func Clean(raw string) string {
	raw = strings.TrimSpace(raw)
	// Newlines may stand inside the marker (spec/pitfalls.md D), so it is cut by counting its characters from the end.
	rest, i := raw, len(EndMarker)-1
	for len(rest) > 0 && i >= 0 {
		c := rest[len(rest)-1]
		if c != '\r' && c != '\n' {
			if c != EndMarker[i] {
				return raw
			}
			i--
		}
		rest = rest[:len(rest)-1]
	}
	if i >= 0 {
		return raw
	}
	return strings.TrimSpace(rest)
}

// NoFindings is the phrase of an answer that found nothing.
const NoFindings = "no findings"

// Phrases returns the phrase of each [SEG] of an answer, in order (spec/prompting.md 10): the <p> span between it and
// the previous [SEG]; else the text that follows it up to the next one; else target.
func Phrases(answer, target string) []string {
	parts := strings.Split(Clean(answer), Seg)
	phrases := make([]string, 0, len(parts)-1)
	for i := 1; i < len(parts); i++ {
		if p, ok := lastSpan(parts[i-1]); ok {
			phrases = append(phrases, p)
			continue
		}
		after := parts[i]
		if span := strings.Index(after, "<p>"); span >= 0 && i+1 < len(parts) {
			after = after[:span] // it belongs to the next [SEG]
		}
		phrase := phraseText(after)
		if phrase == "" {
			phrase = phraseText(target)
		}
		phrases = append(phrases, phrase)
	}
	return phrases
}

// lastSpan returns the content of the last whole <p>...</p> of s.
func lastSpan(s string) (string, bool) {
	end := strings.LastIndex(s, "</p>")
	if end < 0 {
		return "", false
	}
	start := strings.LastIndex(s[:end], "<p>")
	if start < 0 {
		return "", false
	}
	return phraseText(s[start+len("<p>") : end]), true
}

// phraseText trims the punctuation that surrounds a phrase.
func phraseText(s string) string {
	s = strings.TrimSpace(s)
	s = strings.TrimSpace(strings.TrimPrefix(s, "."))
	return strings.TrimSpace(strings.TrimSuffix(s, "."))
}
