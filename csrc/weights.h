// weights.h: the tensors of one GGUF file: expected by name, checked all at once, then mapped or copied.
//
// Shapes are written in ggml order, fastest axis first: a linear layer from `in` to `out` has the weight {in, out}.

#pragma once

#include "device.h"
#include "gguf_file.h"

#include <initializer_list>
#include <memory>
#include <set>

namespace ub {

struct linear_weights { ggml_tensor * weight = nullptr, * bias = nullptr; };  // {in, out}, {out} or null
struct norm_weights   { ggml_tensor * weight = nullptr, * bias = nullptr; };  // {n}, {n}

// Types that a matrix of a model file may have: those of the command.
bool is_matrix_type(ggml_type type);

class weights {
  public:
    explicit weights(std::shared_ptr<const gguf_file> file);
    ~weights();
    weights(const weights &) = delete;
    weights & operator=(const weights &) = delete;

    // Expect a tensor. What is missing or has another shape or type is remembered for finish(), and a null pointer returned.
    ggml_tensor * matrix(const std::string & name, std::initializer_list<int64_t> ne);  // any matrix type
    ggml_tensor * f32(const std::string & name, std::initializer_list<int64_t> ne);     // f32 only
    bool          has(const std::string & name) const { return file_->find(name) != nullptr; }

    // NAME.weight of any matrix type and NAME.bias in f32.
    linear_weights linear(const std::string & name, int64_t in, int64_t out, bool bias = true);
    // The same with an f32 weight.
    linear_weights linear_f32(const std::string & name, int64_t in, int64_t out, bool bias = true);
    norm_weights   norm(const std::string & name, int64_t n);

    // Matrices of this prefix serve as weights of linear() only, and bear int8 arithmetic where they are q8_0.
    void may_pack(const std::string & prefix) { packable_.push_back(prefix); }

    // Fails with one UB_E_FORMAT that lists all tensors that are missing, wrong or unexpected.
    void finish();

    // After finish: gives the tensors their data. On the CPU the file is mapped, what may be packed is (accel.h) and its pages
    // are let go; elsewhere all is copied. Checks no values.
    void load(const device & dev, reporter & r);
    // Instead of load, to measure graphs: places the tensors on the device without data.
    void pretend(const device & dev);

    const gguf_file & file() const { return *file_; }
    uint64_t          bytes() const { return file_->data_size(); }

  private:
    bool          packs(const ggml_tensor * t) const;
    ggml_tensor * expect(const std::string & name, std::initializer_list<int64_t> ne, bool any_matrix_type);

    struct mapping;

    std::shared_ptr<const gguf_file> file_;
    ggml_context_ptr                 ctx_;
    std::unique_ptr<mapping>         map_;
    ggml_backend_buffer_ptr          buffer_, packed_;
    std::vector<std::string>         packable_;
    std::vector<ggml_tensor *>       tensors_;  // in the file's order
    std::set<std::string>            expected_;
    std::string                      missing_, wrong_;
    int                              n_missing_ = 0, n_wrong_ = 0;
};

} // namespace ub
