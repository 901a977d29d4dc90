//go:build !cgo

package bindings

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/ebitengine/purego"
)

// The library loaded at run time. Each function has the name, the arguments and the result of its C namesake, on the structs
// of layout.go; the C prototype stands above it.
var (
	// int32_t ub_abi_version(void)
	ubABIVersion func() int32
	// const char * ub_build_info(void)
	ubBuildInfo func() string
	// int64_t ub_struct_size(const char * name)
	ubStructSize func(name *byte) int64
	// int64_t ub_field_offset(const char * struct_name, const char * field)
	ubFieldOffset func(name, field *byte) int64
	// int64_t ub_enum_value(const char * name)
	ubEnumValue func(name *byte) int64

	// int32_t ub_device_count(void)
	ubDeviceCount func() int32
	// ub_status ub_device_get(int32_t index, ub_device_info * out, ub_error * err)
	ubDeviceGet func(index int32, out *cDeviceInfo, e *cError) int32

	// void ub_model_params_init(ub_model_params * p)
	ubModelParamsInit func(p *cModelParams)
	// void ub_model_files_init(ub_model_files * f)
	ubModelFilesInit func(f *cModelFiles)
	// ub_status ub_model_check(const ub_model_files * files, ub_error * err)
	ubModelCheck func(f *cModelFiles, e *cError) int32
	// ub_status ub_model_plan(const ub_model_files * files, const ub_model_params * p, ub_memory_plan * out, ub_error * err)
	ubModelPlan func(f *cModelFiles, p *cModelParams, out *cMemoryPlan, e *cError) int32
	// ub_status ub_model_open(const ub_model_files * files, const ub_model_params * p, const ub_call * call, ub_model ** out, ub_error * err)
	ubModelOpen func(f *cModelFiles, p *cModelParams, call *cCall, out *handle, e *cError) int32
	// void ub_model_close(ub_model * m)
	ubModelClose func(m handle)
	// ub_status ub_model_get_info(const ub_model * m, ub_model_info * out, ub_error * err)
	ubModelGetInfo func(m handle, out *cModelInfo, e *cError) int32
	// ub_status ub_model_metadata(const ub_model * m, const char * key, char * buffer, int32_t capacity, int32_t * length, ub_error * err)
	ubModelMetadata func(m handle, key, buffer *byte, capacity int32, n *int32, e *cError) int32

	// ub_status ub_tokenize(const ub_model * m, const char * text, int32_t length, bool special, int32_t * ids, int32_t capacity, int32_t * n, ub_error * err)
	ubTokenize func(m handle, text *byte, length int32, special bool, ids *int32, capacity int32, n *int32, e *cError) int32
	// ub_status ub_token_bytes(const ub_model * m, int32_t id, char * buffer, int32_t capacity, int32_t * n, ub_error * err)
	ubTokenBytes func(m handle, id int32, buffer *byte, capacity int32, n *int32, e *cError) int32
	// int32_t ub_token_kind(const ub_model * m, int32_t id)
	ubTokenKind func(m handle, id int32) int32

	// ub_status ub_vision_encode(ub_model * m, const float * tiles, int32_t n, float * embeddings, const ub_call * call, ub_error * err)
	ubVisionEncode func(m handle, tiles *float32, n int32, embeddings *float32, call *cCall, e *cError) int32

	// ub_status ub_session_open(ub_model * m, uint32_t n_ctx, ub_session ** out, ub_error * err)
	ubSessionOpen func(m handle, nCtx uint32, out *handle, e *cError) int32
	// void ub_session_close(ub_session * s)
	ubSessionClose func(s handle)
	// ub_status ub_session_prefill(ub_session * s, const int32_t * ids, int32_t n, const float * embeddings, int32_t n_embeddings,
	//                              float * logits, float * hidden, const ub_call * call, ub_error * err)
	ubSessionPrefill func(s handle, ids *int32, n int32, embeddings *float32, nEmbeddings int32, logits, hidden *float32, call *cCall, e *cError) int32
	// ub_status ub_session_decode(ub_session * s, const int32_t * ids, int32_t n, float * logits, float * hidden, ub_error * err)
	ubSessionDecode func(s handle, ids *int32, n int32, logits, hidden *float32, e *cError) int32
	// int32_t ub_session_length(const ub_session * s)
	ubSessionLength func(s handle) int32
	// int32_t ub_session_capacity(const ub_session * s)
	ubSessionCapacity func(s handle) int32
	// ub_status ub_session_truncate(ub_session * s, int32_t length, ub_error * err)
	ubSessionTruncate func(s handle, length int32, e *cError) int32

	// ub_status ub_features_encode(ub_model * m, const float * image, ub_features ** out, const ub_call * call, ub_error * err)
	ubFeaturesEncode func(m handle, image *float32, out *handle, call *cCall, e *cError) int32
	// void ub_features_free(ub_features * f)
	ubFeaturesFree func(f handle)
	// ub_status ub_features_from(ub_model * m, const float * f0, const float * f1, const float * f2, ub_features ** out, ub_error * err)
	ubFeaturesFrom func(m handle, f0, f1, f2 *float32, out *handle, e *cError) int32
	// ub_status ub_masks_decode(ub_model * m, const ub_features * f, const float * hidden, int32_t n, ub_masks * out, const ub_call * call, ub_error * err)
	ubMasksDecode func(m, f handle, hidden *float32, n int32, out *cMasks, call *cCall, e *cError) int32

	// ub_status ub_track_open(ub_model * m, const float * hidden, ub_track ** out, ub_error * err)
	ubTrackOpen func(m handle, hidden *float32, out *handle, e *cError) int32
	// void ub_track_close(ub_track * t)
	ubTrackClose func(t handle)
	// ub_status ub_track_prompt(ub_track * t, int32_t slice, const ub_features * f, ub_masks * out, const ub_call * call, ub_error * err)
	ubTrackPrompt func(t handle, slice int32, f handle, out *cMasks, call *cCall, e *cError) int32
	// ub_status ub_track_step(ub_track * t, int32_t slice, const ub_features * f, ub_masks * out, const ub_call * call, ub_error * err)
	ubTrackStep func(t handle, slice int32, f handle, out *cMasks, call *cCall, e *cError) int32
	// void ub_track_rewind(ub_track * t)
	ubTrackRewind func(t handle)

	// ub_status ub_model_stats(const ub_model * m, ub_stage_stats out[UB_STAGE_COUNT], ub_error * err)
	ubModelStats func(m handle, out *cStageStats, e *cError) int32
	// ub_status ub_model_operations(const ub_model * m, char * buffer, int32_t capacity, int32_t * length, ub_error * err)
	ubModelOperations func(m handle, buffer *byte, capacity int32, n *int32, e *cError) int32
	// ub_status ub_peak_rate(ub_model * m, const char * type, int32_t n, float seconds, double * flop_per_second, ub_error * err)
	ubPeakRate func(m handle, typ *byte, n int32, seconds float32, rate *float64, e *cError) int32

	// int64_t ub_row_size(const char * type, int64_t row_length)
	ubRowSize func(typ *byte, rowLength int64) int64
	// int32_t ub_type_id(const char * type)
	ubTypeID func(typ *byte) int32
	// ub_status ub_quantize(const char * type, const float * src, int64_t rows, int64_t row_length, void * dst, size_t dst_size, int32_t n_threads, ub_error * err)
	ubQuantize func(typ *byte, src *float32, rows, rowLength int64, dst *byte, dstSize uint, threads int32, e *cError) int32
	// ub_status ub_dequantize(const char * type, const void * src, size_t src_size, int64_t rows, int64_t row_length, float * dst, ub_error * err)
	ubDequantize func(typ, src *byte, srcSize uint, rows, rowLength int64, dst *float32, e *cError) int32
)

var functions = map[string]any{
	"ub_abi_version": &ubABIVersion, "ub_build_info": &ubBuildInfo, "ub_struct_size": &ubStructSize,
	"ub_field_offset": &ubFieldOffset, "ub_enum_value": &ubEnumValue,
	"ub_device_count": &ubDeviceCount, "ub_device_get": &ubDeviceGet,
	"ub_model_params_init": &ubModelParamsInit, "ub_model_files_init": &ubModelFilesInit,
	"ub_model_check": &ubModelCheck, "ub_model_plan": &ubModelPlan, "ub_model_open": &ubModelOpen,
	"ub_model_close": &ubModelClose, "ub_model_get_info": &ubModelGetInfo, "ub_model_metadata": &ubModelMetadata,
	"ub_tokenize": &ubTokenize, "ub_token_bytes": &ubTokenBytes, "ub_token_kind": &ubTokenKind,
	"ub_vision_encode": &ubVisionEncode,
	"ub_session_open":  &ubSessionOpen, "ub_session_close": &ubSessionClose, "ub_session_prefill": &ubSessionPrefill,
	"ub_session_decode": &ubSessionDecode, "ub_session_length": &ubSessionLength,
	"ub_session_capacity": &ubSessionCapacity, "ub_session_truncate": &ubSessionTruncate,
	"ub_features_encode": &ubFeaturesEncode, "ub_features_free": &ubFeaturesFree, "ub_features_from": &ubFeaturesFrom,
	"ub_masks_decode": &ubMasksDecode,
	"ub_track_open":   &ubTrackOpen, "ub_track_close": &ubTrackClose, "ub_track_prompt": &ubTrackPrompt,
	"ub_track_step": &ubTrackStep, "ub_track_rewind": &ubTrackRewind,
	"ub_model_stats": &ubModelStats, "ub_model_operations": &ubModelOperations, "ub_peak_rate": &ubPeakRate,
	"ub_row_size": &ubRowSize, "ub_type_id": &ubTypeID, "ub_quantize": &ubQuantize, "ub_dequantize": &ubDequantize,
}

// callbacks returns the C functions that call onProgress and onTrace. A process can have few of them and never frees one, so
// there is one of each.
var callbacks = sync.OnceValues(func() (progress, trace uintptr) {
	return purego.NewCallback(onProgress), purego.NewCallback(onTrace)
})

func loadNative() error { return loadFrom(places()) }

// loadFrom loads the library from the first place that has it.
func loadFrom(places []string) error {
	var tried []string
	for _, path := range places {
		if filepath.IsAbs(path) {
			if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
				tried = append(tried, path+": no such file")
				continue
			}
		}
		lib, err := openLibrary(path)
		if err != nil {
			tried = append(tried, path+": "+err.Error())
			continue
		}
		for name, f := range functions {
			address, err := symbol(lib, name)
			if err != nil {
				return fmt.Errorf("%s has no %s: it is of another version than this program", path, name)
			}
			purego.RegisterFunc(f, address)
		}
		return nil
	}
	return fmt.Errorf("%s was found nowhere (UNIBIOMED_LIB may name it): %s", libraryName(), strings.Join(tried, "; "))
}

// places lists where the library may be. A bare name is for the system's loader to find.
func places() []string {
	name := libraryName()
	var list []string
	if exe, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(exe); err == nil {
			exe = real
		}
		folder := filepath.Dir(exe)
		list = append(list, filepath.Join(folder, name), filepath.Join(folder, "..", "lib", name))
	}
	if path := os.Getenv("UNIBIOMED_LIB"); path != "" {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			path = filepath.Join(path, name)
		}
		if abs, err := filepath.Abs(path); err == nil {
			list = append(list, abs)
		}
	}
	// For tests and go run: this source file's own tree. Built with -trimpath, the path is not absolute and says nothing.
	if _, file, _, known := runtime.Caller(0); known && filepath.IsAbs(file) {
		list = append(list, filepath.Join(filepath.Dir(file), "..", "build", "lib", name))
	}
	return append(list, name)
}

func libraryName() string {
	switch runtime.GOOS {
	case "windows":
		return "unibiomed.dll"
	case "darwin":
		return "libunibiomed.dylib"
	}
	return "libunibiomed.so"
}
