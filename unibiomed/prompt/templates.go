package prompt

import "strings"

// The instructions of the official evaluation (spec/prompting.md 3 and 8), word for word, misspellings included.

// Segment asks for a mask of target, for instance "liver in abdomen CT".
func Segment(target string) string {
	return ImagePlaceholder + "Please segment " + strings.TrimSuffix(strings.TrimSpace(target), ".") + "."
}

const maskParts = " Please respond with interleaved segmentation masks for the corresponding parts."
const maskRegion = " Please highlight the region with interleaved segmentation masks."
const maskPhrases = " Please output with interleaved segmentation masks for the corresponding phrases."

// Segmentation holds the wordings of training for {class_name} (8.1). Item 16 really lacks a space.
var Segmentation = []string{
	"Can you segment the {class_name}?",
	"Please segment {class_name}.",
	"What is {class_name}? Please respond with segmentation mask.",
	"What is {class_name}? Please output segmentation mask.",
	"Can you segment the {class_name}",
	"Please segment {class_name}",
	"What is {class_name}? Please respond with segmentation mask",
	"What is {class_name}? Please output segmentation mask",
	"Could you provide a segmentation mask for the {class_name}?",
	"Please identify and segment the {class_name}.",
	"Where is the {class_name}? Please respond with a segmentation mask.",
	"Can you highlight the {class_name} with a segmentation mask?",
	"Could you provide a segmentation mask for the {class_name}",
	"Please identify and segment the {class_name}",
	"Where is the {class_name}? Please respond with a segmentation mask",
	"Can you highlight the {class_name}with a segmentation mask",
}

// Recognition holds the questions of grounded disease recognition (8.3). The first is the default.
var Recognition = []string{
	"Can we observe any signs of abnormality?" + maskParts,
	"Can we see abnormality?" + maskRegion,
	"Can abnormality be identified?" + maskPhrases,
	"Can abnormality be observed?" + maskPhrases,
	"Are there any visible indications of abnormality?" + maskParts,
	"Are there any observable signs of abnormality?" + maskRegion,
	"Does the visual features suggest the presence of abnormality?" + maskPhrases,
	"Are there any clear indications of abnormality?" + maskPhrases,
}

// GroundedVQA holds the questions about {anatomy} (8.5).
var GroundedVQA = []string{
	"Can we observe any signs of abnormality in {anatomy}?" + maskParts,
	"Can we see abnormality in {anatomy}?" + maskRegion,
	"Can abnormality be identified in {anatomy}?" + maskPhrases,
	"Can abnormality be observed within {anatomy}?" + maskPhrases,
	"Are there any visible indications of abnormality in {anatomy}?" + maskParts,
	"Are there any observable signs of abnormality in {anatomy}?" + maskRegion,
	"Does the visual features suggest the presence of abnormality in {anatomy}?" + maskPhrases,
	"Are there any clear indications of abnormality within {anatomy}?" + maskPhrases,
}

// GroundedReport holds the questions of report generation (8.6).
var GroundedReport = []string{
	"Could you diagnosis the abnormality in this image?" + maskParts,
	"Could you describe the abnormality in this image?" + maskRegion,
	"Can you generate a brief report for this image?" + maskPhrases,
	"Could you give a brief discription of what abnormality can be found within this image?" + maskPhrases,
}

// RegionQuestion holds the questions about a drawn box (8.4).
var RegionQuestion = []string{
	"What is the <region> in the picture?",
	"Can you tell me what is the <region> in the image?",
	"Could you tell me the <region> in the picture?",
	"Can you identify the <region> in the image?",
	"Can you tell me about the <region> represents in this photo?",
	"What does the <region> in the photo indicate?",
	"What does the <region> refer to in this image?",
	"Could you clarify what the <region> in the photo shows?",
	"What is shown in the <region> in the picture?",
}

// RegionDescription holds the questions of region captioning (8.7).
var RegionDescription = []string{
	"Can you provide me with a detailed description of the region in the picture marked by <region>?",
	"I'm curious about the region represented by <region> in the picture. Could you describe it in detail?",
	"What can you tell me about the region indicated by <region> in the image?",
	"I'd like to know more about the area in the photo labeled <region>. Can you give me a detailed description?",
	"Could you describe the region shown as <region> in the picture in great detail?",
	"What details can you give me about the region outlined by <region> in the photo?",
	"Please provide me with a comprehensive description of the region marked with <region> in the image.",
	"Can you give me a detailed account of the region labeled as <region> in the picture?",
	"I'm interested in learning more about the region represented by <region> in the photo. Can you describe it in detail?",
	"What is the region outlined by <region> in the picture like? Could you give me a detailed description?",
	"Can you provide me with a detailed description of the region in the picture marked by <region>, please?",
	"I'm curious about the region represented by <region> in the picture. Could you describe it in detail, please?",
	"What can you tell me about the region indicated by <region> in the image, exactly?",
	"I'd like to know more about the area in the photo labeled <region>, please. Can you give me a detailed description?",
	"Could you describe the region shown as <region> in the picture in great detail, please?",
	"What details can you give me about the region outlined by <region> in the photo, please?",
	"Please provide me with a comprehensive description of the region marked with <region> in the image, please.",
	"Can you give me a detailed account of the region labeled as <region> in the picture, please?",
	"I'm interested in learning more about the region represented by <region> in the photo. Can you describe it in detail, please?",
	"What is the region outlined by <region> in the picture like, please? Could you give me a detailed description?",
	"Please describe the region <region> in the image in detail.",
	"Can you offer a thorough analysis of the region <region> in the image?",
	"Could you elaborate on the region highlighted by <region> in the picture provided?",
	"Please share more information about the zone emphasized with <region> in the photo.",
	"What insights can you give about the area denoted by <region> in the image presented?",
	"Can you share a comprehensive rundown of the region denoted by <region> in the presented image?",
	"I'd like to know more about the region highlighted by <region> in the picture provided.",
	"Work through the important details of the area <region> in the image.",
	"Illustrate the area represented by <region> through a descriptive explanation.",
	"Examine the region <region> closely and share its details.",
}

// Recognize is the default question of disease recognition.
func Recognize() string { return ImagePlaceholder + Recognition[0] }

// Report is the default question of report generation; with an anatomy, that of grounded VQA.
func Report(anatomy string) string {
	if anatomy = strings.TrimSpace(anatomy); anatomy != "" {
		return ImagePlaceholder + strings.ReplaceAll(GroundedVQA[0], "{anatomy}", anatomy)
	}
	return ImagePlaceholder + GroundedReport[1]
}

// Region is the default question about the drawn box; with describe, it asks for a caption. The evaluation puts a
// newline behind <image> for region tasks (spec/prompting.md 3).
func Region(describe bool) string {
	q := RegionQuestion[0]
	if describe {
		q = RegionDescription[0]
	}
	return ImagePlaceholder + "\n" + q
}
