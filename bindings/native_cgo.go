//go:build cgo

package bindings

// The library linked in. Each function has the name, the arguments and the result of its C namesake, on the structs of
// layout.go.

/*
#cgo CPPFLAGS: -I${SRCDIR}/../csrc/include
#include <stdlib.h>
#include "unibiomed.h"
#if __has_include("native_stamp.h")
#include "native_stamp.h" // written by the build: the archive's checksum, kept in an object so that Go links again when it changes
__attribute__((used)) static const char ub_native_stamp[] = UB_NATIVE_STAMP;
#endif

extern bool ubGoProgress(float done, void * user);
extern void ubGoTrace(char * name, float * data, int64_t * shape, int32_t dims, void * user);
*/
import "C"

import "unsafe"

//export ubGoProgress
func ubGoProgress(done C.float, user unsafe.Pointer) C.bool {
	return C.bool(onProgress(float32(done), (*uintptr)(user)))
}

//export ubGoTrace
func ubGoTrace(name *C.char, data *C.float, shape *C.int64_t, dims C.int32_t, user unsafe.Pointer) {
	onTrace((*byte)(unsafe.Pointer(name)), (*float32)(data), (*int64)(shape), int32(dims), (*uintptr)(user))
}

// callbacks returns the C functions that call onProgress and onTrace.
func callbacks() (progress, trace uintptr) {
	return uintptr(C.ubGoProgress), uintptr(C.ubGoTrace)
}

func loadNative() error { return nil }

func str(p *byte) *C.char              { return (*C.char)(unsafe.Pointer(p)) }
func floats(p *float32) *C.float       { return (*C.float)(p) }
func ints(p *int32) *C.int32_t         { return (*C.int32_t)(p) }
func callOf(p *cCall) *C.ub_call       { return (*C.ub_call)(unsafe.Pointer(p)) }
func errOf(p *cError) *C.ub_error      { return (*C.ub_error)(unsafe.Pointer(p)) }
func masksOf(p *cMasks) *C.ub_masks    { return (*C.ub_masks)(unsafe.Pointer(p)) }
func model(h handle) *C.ub_model       { return (*C.ub_model)(h) }
func session(h handle) *C.ub_session   { return (*C.ub_session)(h) }
func features(h handle) *C.ub_features { return (*C.ub_features)(h) }
func track(h handle) *C.ub_track       { return (*C.ub_track)(h) }
func filesOf(p *cModelFiles) *C.ub_model_files {
	return (*C.ub_model_files)(unsafe.Pointer(p))
}
func paramsOf(p *cModelParams) *C.ub_model_params {
	return (*C.ub_model_params)(unsafe.Pointer(p))
}

func ubABIVersion() int32  { return int32(C.ub_abi_version()) }
func ubBuildInfo() string  { return C.GoString(C.ub_build_info()) }
func ubDeviceCount() int32 { return int32(C.ub_device_count()) }

func ubStructSize(name *byte) int64 { return int64(C.ub_struct_size(str(name))) }

func ubFieldOffset(name, field *byte) int64 { return int64(C.ub_field_offset(str(name), str(field))) }

func ubEnumValue(name *byte) int64 { return int64(C.ub_enum_value(str(name))) }

func ubDeviceGet(index int32, out *cDeviceInfo, e *cError) int32 {
	return int32(C.ub_device_get(C.int32_t(index), (*C.ub_device_info)(unsafe.Pointer(out)), errOf(e)))
}

func ubModelParamsInit(p *cModelParams) { C.ub_model_params_init(paramsOf(p)) }
func ubModelFilesInit(f *cModelFiles)   { C.ub_model_files_init(filesOf(f)) }

func ubModelCheck(f *cModelFiles, e *cError) int32 {
	return int32(C.ub_model_check(filesOf(f), errOf(e)))
}

func ubModelPlan(f *cModelFiles, p *cModelParams, out *cMemoryPlan, e *cError) int32 {
	return int32(C.ub_model_plan(filesOf(f), paramsOf(p), (*C.ub_memory_plan)(unsafe.Pointer(out)), errOf(e)))
}

func ubModelOpen(f *cModelFiles, p *cModelParams, call *cCall, out *handle, e *cError) int32 {
	return int32(C.ub_model_open(filesOf(f), paramsOf(p), callOf(call), (**C.ub_model)(unsafe.Pointer(out)), errOf(e)))
}

func ubModelClose(m handle) { C.ub_model_close(model(m)) }

func ubModelGetInfo(m handle, out *cModelInfo, e *cError) int32 {
	return int32(C.ub_model_get_info(model(m), (*C.ub_model_info)(unsafe.Pointer(out)), errOf(e)))
}

func ubModelMetadata(m handle, key, buffer *byte, capacity int32, n *int32, e *cError) int32 {
	return int32(C.ub_model_metadata(model(m), str(key), str(buffer), C.int32_t(capacity), ints(n), errOf(e)))
}

func ubModelOperations(m handle, buffer *byte, capacity int32, n *int32, e *cError) int32 {
	return int32(C.ub_model_operations(model(m), str(buffer), C.int32_t(capacity), ints(n), errOf(e)))
}

func ubTokenize(m handle, text *byte, length int32, special bool, ids *int32, capacity int32, n *int32, e *cError) int32 {
	return int32(C.ub_tokenize(model(m), str(text), C.int32_t(length), C.bool(special), ints(ids), C.int32_t(capacity), ints(n), errOf(e)))
}

func ubTokenBytes(m handle, id int32, buffer *byte, capacity int32, n *int32, e *cError) int32 {
	return int32(C.ub_token_bytes(model(m), C.int32_t(id), str(buffer), C.int32_t(capacity), ints(n), errOf(e)))
}

func ubTokenKind(m handle, id int32) int32 { return int32(C.ub_token_kind(model(m), C.int32_t(id))) }

func ubVisionEncode(m handle, tiles *float32, n int32, embeddings *float32, call *cCall, e *cError) int32 {
	return int32(C.ub_vision_encode(model(m), floats(tiles), C.int32_t(n), floats(embeddings), callOf(call), errOf(e)))
}

func ubSessionOpen(m handle, nCtx uint32, out *handle, e *cError) int32 {
	return int32(C.ub_session_open(model(m), C.uint32_t(nCtx), (**C.ub_session)(unsafe.Pointer(out)), errOf(e)))
}

func ubSessionClose(s handle) { C.ub_session_close(session(s)) }

func ubSessionPrefill(s handle, ids *int32, n int32, embeddings *float32, nEmbeddings int32, logits, hidden *float32, call *cCall, e *cError) int32 {
	return int32(C.ub_session_prefill(session(s), ints(ids), C.int32_t(n), floats(embeddings), C.int32_t(nEmbeddings),
		floats(logits), floats(hidden), callOf(call), errOf(e)))
}

func ubSessionDecode(s handle, ids *int32, n int32, logits, hidden *float32, e *cError) int32 {
	return int32(C.ub_session_decode(session(s), (*C.int32_t)(ids), C.int32_t(n), floats(logits), floats(hidden), errOf(e)))
}

func ubSessionLength(s handle) int32   { return int32(C.ub_session_length(session(s))) }
func ubSessionCapacity(s handle) int32 { return int32(C.ub_session_capacity(session(s))) }

func ubSessionTruncate(s handle, length int32, e *cError) int32 {
	return int32(C.ub_session_truncate(session(s), C.int32_t(length), errOf(e)))
}

func ubFeaturesEncode(m handle, image *float32, out *handle, call *cCall, e *cError) int32 {
	return int32(C.ub_features_encode(model(m), floats(image), (**C.ub_features)(unsafe.Pointer(out)), callOf(call), errOf(e)))
}

func ubFeaturesFree(f handle) { C.ub_features_free(features(f)) }

func ubFeaturesFrom(m handle, f0, f1, f2 *float32, out *handle, e *cError) int32 {
	return int32(C.ub_features_from(model(m), floats(f0), floats(f1), floats(f2), (**C.ub_features)(unsafe.Pointer(out)), errOf(e)))
}

func ubMasksDecode(m, f handle, hidden *float32, n int32, out *cMasks, call *cCall, e *cError) int32 {
	return int32(C.ub_masks_decode(model(m), features(f), floats(hidden), C.int32_t(n), masksOf(out), callOf(call), errOf(e)))
}

func ubTrackOpen(m handle, hidden *float32, out *handle, e *cError) int32 {
	return int32(C.ub_track_open(model(m), floats(hidden), (**C.ub_track)(unsafe.Pointer(out)), errOf(e)))
}

func ubTrackClose(t handle) { C.ub_track_close(track(t)) }

func ubTrackPrompt(t handle, slice int32, f handle, out *cMasks, call *cCall, e *cError) int32 {
	return int32(C.ub_track_prompt(track(t), C.int32_t(slice), features(f), masksOf(out), callOf(call), errOf(e)))
}

func ubTrackStep(t handle, slice int32, f handle, out *cMasks, call *cCall, e *cError) int32 {
	return int32(C.ub_track_step(track(t), C.int32_t(slice), features(f), masksOf(out), callOf(call), errOf(e)))
}

func ubTrackRewind(t handle) { C.ub_track_rewind(track(t)) }

func ubModelStats(m handle, out *cStageStats, e *cError) int32 {
	return int32(C.ub_model_stats(model(m), (*C.ub_stage_stats)(unsafe.Pointer(out)), errOf(e)))
}

func ubPeakRate(m handle, typ *byte, n int32, seconds float32, rate *float64, e *cError) int32 {
	return int32(C.ub_peak_rate(model(m), str(typ), C.int32_t(n), C.float(seconds), (*C.double)(rate), errOf(e)))
}

func ubRowSize(typ *byte, rowLength int64) int64 {
	return int64(C.ub_row_size(str(typ), C.int64_t(rowLength)))
}

func ubTypeID(typ *byte) int32 { return int32(C.ub_type_id(str(typ))) }

func ubQuantize(typ *byte, src *float32, rows, rowLength int64, dst *byte, dstSize uint, threads int32, e *cError) int32 {
	return int32(C.ub_quantize(str(typ), floats(src), C.int64_t(rows), C.int64_t(rowLength), unsafe.Pointer(dst), C.size_t(dstSize),
		C.int32_t(threads), errOf(e)))
}

func ubDequantize(typ, src *byte, srcSize uint, rows, rowLength int64, dst *float32, e *cError) int32 {
	return int32(C.ub_dequantize(str(typ), unsafe.Pointer(src), C.size_t(srcSize), C.int64_t(rows), C.int64_t(rowLength), floats(dst), errOf(e)))
}
