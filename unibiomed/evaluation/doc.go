// Package evaluation scores a model on images whose masks or labels are known.
//
// A Dataset is read from a folder in one of three formats. An Evaluator asks the model about one Sample after the other and
// keeps of each a Record: what was asked, what was answered, and the pixel counts that every score is made of. Records are
// appended to a file as they come, so a killed run loses one image at most, and Summarize makes the scores of them: those of
// the official scripts beside strict ones, per modality and per phrase, with bootstrap intervals over groups (docs/evaluation.md).
//
// ParseResult reads a result document (unibiomed.result/1) back, and refuses one whose parts disagree. With it, saved answers
// are scored again without a model.
//
// Research use only.
package evaluation
