package bindings

import "unsafe"

// The structs of unibiomed.h, field by field in the same order. The conformance tests compare sizes and offsets with the
// library's own. Pointers in them are to pinned Go memory or to C functions.

type (
	cError struct {
		code    int32
		message [1020]byte
	}

	cCall struct {
		size, reserved  uint32
		progress, trace uintptr // C functions
		user            *uintptr
	}

	cDeviceInfo struct {
		size        uint32
		typ         int32
		memoryTotal uint64
		memoryFree  uint64
		name        [64]byte
		description [192]byte
	}

	cModelFiles struct {
		size, reserved              uint32
		language, vision, grounding *byte
	}

	cModelParams struct {
		size        uint32
		nThreads    int32
		device      *byte
		memoryLimit uint64
		nCtx        uint32
		tileBatch   uint32
		maskBatch   uint32
		vocabOnly   uint32
		kvCache     *byte
	}

	cMemoryPlan struct {
		size, reserved uint32
		Plan
	}

	cModelInfo struct {
		size            uint32
		nVocab          int32
		nEmbd           int32
		nLayer          int32
		nCtxTrain       int32
		tileSize        int32
		tileTokens      int32
		tileMin         int32
		tileMax         int32
		tileThumbnail   int32
		vitTokens       int32
		vitEmbd         int32
		tileMean        [3]float32
		tileStd         [3]float32
		maskImageSize   int32
		maskSize        int32
		maskEmbd        int32
		nMasks          int32
		featureSize     int32
		memoryEmbd      int32
		nMaskmem        int32
		nPromptedSlices int32
		maskImageMean   [3]float32
		maskImageStd    [3]float32
	}

	cMasks struct {
		size, reserved uint32
		logits         *float32
		iou            *float32
		objectScore    *float32
		selected       *int32
		embedding      *float32
	}

	cStageStats struct {
		calls, items, nanoseconds, flop uint64
	}
)

// handle is a pointer to one of the library's objects.
type handle = unsafe.Pointer
