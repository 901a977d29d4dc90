package seg

import (
	"strings"

	"github.com/unibiomed/go-unibiomed/unibiomed/dicom"
)

// Categories of segments, of context group 7150 of DICOM.
var (
	anatomy    = dicom.Code{Value: "123037004", Scheme: "SCT", Meaning: "Anatomical Structure"}
	morphology = dicom.Code{Value: "49755003", Scheme: "SCT", Meaning: "Morphologically Altered Structure"}
	tissue     = dicom.Code{Value: "85756007", Scheme: "SCT", Meaning: "Tissue"}
)

var sides = map[string]dicom.Code{
	"left":  {Value: "7771000", Scheme: "SCT", Meaning: "Left"},
	"right": {Value: "24028007", Scheme: "SCT", Meaning: "Right"},
}

// anatomical and morphological are the SNOMED CT codes of phrases, by the words that name them.
var anatomical = map[string]string{
	"liver": "10200004 Liver", "kidney": "64033007 Kidney", "spleen": "78961009 Spleen", "pancreas": "15776009 Pancreas",
	"gallbladder": "28231008 Gallbladder", "stomach": "69695003 Stomach", "bladder": "89837001 Bladder", "urinary bladder": "89837001 Bladder",
	"lung": "39607008 Lung", "heart": "80891009 Heart", "aorta": "15825003 Aorta", "brain": "12738006 Brain", "esophagus": "32849002 Esophagus",
	"trachea": "44567001 Trachea", "duodenum": "38848004 Duodenum", "small bowel": "30315005 Small intestine", "small intestine": "30315005 Small intestine",
	"colon": "71854001 Colon", "large intestine": "14742008 Large intestine", "large bowel": "14742008 Large intestine", "rectum": "34402009 Rectum",
	"prostate": "41216001 Prostate", "uterus": "35039007 Uterus", "adrenal gland": "23451007 Adrenal gland", "thyroid": "69748006 Thyroid",
	"inferior vena cava": "64131007 Inferior Vena Cava", "portal vein": "32764006 Portal Vein", "hepatic vein": "8993003 Hepatic Vein",
	"hepatic vessel": "59820001 Blood vessel", "vessel": "59820001 Blood vessel", "blood vessel": "59820001 Blood vessel", "artery": "51114001 Artery", "vein": "29092000 Vein",
	"vertebra": "51282000 Vertebra", "vertebrae": "51282000 Vertebra", "rib": "113197003 Rib", "ribs": "113197003 Rib", "femur": "71341001 Femur",
	"clavicle": "51299004 Clavicle", "scapula": "79601000 Scapula", "sternum": "56873002 Sternum", "humerus": "85050009 Humerus",
	"pelvis": "12921003 Pelvis", "sacrum": "54735007 Sacrum", "spine": "421060004 Spine", "mandible": "91609006 Mandible", "bone": "272673000 Bone",
	"eye": "81745001 Eye", "retina": "5665001 Retina", "optic nerve": "18234004 Optic nerve", "optic disc": "81016008 Optic disc",
	"left atrium": "82471001 Left atrium", "left heart atrium": "82471001 Left atrium", "heart atrium left": "82471001 Left atrium",
	"right atrium": "73829009 Right atrium", "right heart atrium": "73829009 Right atrium", "heart atrium right": "73829009 Right atrium",
	"left ventricle": "87878005 Left ventricle", "left heart ventricle": "87878005 Left ventricle", "heart ventricle left": "87878005 Left ventricle",
	"right ventricle": "53085002 Right ventricle", "right heart ventricle": "53085002 Right ventricle", "heart ventricle right": "53085002 Right ventricle",
	"hippocampus": "5366008 Hippocampus", "cerebellum": "113305005 Cerebellum", "brainstem": "119238007 Brain stem", "brain stem": "119238007 Brain stem",
	"spinal cord": "2748008 Spinal cord", "gray matter": "389081007 Gray Matter", "grey matter": "389081007 Gray Matter", "white matter": "389080008 White Matter",
	"pituitary": "56329008 Pituitary", "skin": "39937001 Skin", "breast": "76752008 Breast", "head": "69536005 Head", "fetal head": "69536005 Head",
	"muscle": "71616004 Muscle", "lymph node": "59441001 Lymph node", "pleura": "3120008 Pleura",
}

var morphological = map[string]string{
	"tumor": "108369006 Neoplasm", "tumour": "108369006 Neoplasm", "neoplasm": "108369006 Neoplasm", "nodule": "27925004 Nodule", "cyst": "367643001 Cyst",
	"lesion": "52988006 Lesion", "edema": "79654002 Edema", "oedema": "79654002 Edema", "necrosis": "6574001 Necrosis",
	"hemorrhage": "50960005 Hemorrhage", "haemorrhage": "50960005 Hemorrhage", "mass": "4147007 Mass", "stenosis": "44241007 Stenosis",
	"pleural effusion": "60046008 Pleural effusion", "pneumothorax": "36118008 Pneumothorax",
}

// A Coding is what a segment is, in codes.
type Coding struct {
	Category, Type dicom.Code
	Side           *dicom.Code // left or right, or nil
}

// CodingOf returns the codes of a phrase: those of the longest known name at its end, as in "the left kidney" or "lung nodule",
// and plain tissue where nothing is known.
func CodingOf(phrase string) Coding {
	words := strings.FieldsFunc(strings.ToLower(phrase), func(r rune) bool { return !(r >= 'a' && r <= 'z') })
	c := Coding{Category: tissue, Type: tissue}
	for _, w := range words {
		if side, ok := sides[w]; ok {
			c.Side = &side
		}
	}
	find := func(words []string) bool {
		for i := range words {
			name := strings.Join(words[i:], " ")
			for _, n := range []string{name, strings.TrimSuffix(name, "s")} {
				if t, ok := anatomical[n]; ok {
					c.Category, c.Type = anatomy, sct(t)
					return true
				}
				if t, ok := morphological[n]; ok {
					c.Category, c.Type = morphology, sct(t)
					return true
				}
			}
		}
		return false
	}
	var plain []string // without the side, which may stand before or after the name
	for _, w := range words {
		if _, ok := sides[w]; !ok {
			plain = append(plain, w)
		}
	}
	if find(words) {
		if strings.HasPrefix(c.Type.Meaning, "Left ") || strings.HasPrefix(c.Type.Meaning, "Right ") {
			c.Side = nil // said by the type
		}
	} else {
		find(plain)
	}
	return c
}

func sct(s string) dicom.Code {
	value, meaning, _ := strings.Cut(s, " ")
	return dicom.Code{Value: value, Scheme: "SCT", Meaning: meaning}
}
