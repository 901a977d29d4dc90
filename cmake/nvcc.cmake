# Finds a CUDA toolkit and sets CMAKE_CUDA_COMPILER, CMAKE_CUDA_ARCHITECTURES, CUDAToolkit_ROOT and GGML_CUDA_NO_VMM.
#
# Looked for in this order: CMAKE_CUDA_COMPILER and CUDACXX, the path, CUDA_HOME and CUDA_PATH, /usr/local/cuda, and the pip
# packages nvidia-cuda-nvcc, nvidia-cuda-crt, nvidia-nvvm, nvidia-cuda-runtime, nvidia-cuda-cccl and nvidia-cublas of python3.

if (NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
    find_program(UB_PYTHON3 python3)
    set(pip_folders)
    if (UB_PYTHON3)
        execute_process(COMMAND ${UB_PYTHON3} -c "import nvidia; print(';'.join(nvidia.__path__), end='')"
                        OUTPUT_VARIABLE pip_folders ERROR_QUIET)
        list(TRANSFORM pip_folders APPEND "/cu*" OUTPUT_VARIABLE pip_folders)
        file(GLOB pip_folders LIST_DIRECTORIES true ${pip_folders})
    endif()
    find_program(UB_NVCC nvcc
                 HINTS ENV CUDA_HOME ENV CUDA_PATH /usr/local/cuda ${pip_folders} PATH_SUFFIXES bin)
    if (NOT UB_NVCC)
        message(FATAL_ERROR "the preset cuda needs nvcc, which is neither on the path nor in CUDA_HOME, /usr/local/cuda or a pip "
            "package of python3. Install the CUDA toolkit (https://developer.nvidia.com/cuda-downloads) and set CUDA_HOME, or: "
            "pip install nvidia-cuda-nvcc nvidia-cuda-crt nvidia-nvvm nvidia-cuda-runtime nvidia-cuda-cccl nvidia-cublas")
    endif()
    get_filename_component(UB_NVCC ${UB_NVCC} REALPATH)
    set(CMAKE_CUDA_COMPILER ${UB_NVCC} CACHE FILEPATH "")
endif()
if (CMAKE_CUDA_COMPILER)
    get_filename_component(CUDAToolkit_ROOT ${CMAKE_CUDA_COMPILER} DIRECTORY)
    get_filename_component(CUDAToolkit_ROOT ${CUDAToolkit_ROOT} DIRECTORY)
endif()

# Packages of pip hold libraries under versioned names only, in lib, where neither the linker nor FindCUDAToolkit sees them.
file(GLOB versioned ${CUDAToolkit_ROOT}/lib/libcudart.so.* ${CUDAToolkit_ROOT}/lib/libcublas.so.* ${CUDAToolkit_ROOT}/lib/libcublasLt.so.*)
if (versioned AND NOT EXISTS ${CUDAToolkit_ROOT}/lib/libcudart.so AND NOT EXISTS ${CUDAToolkit_ROOT}/lib64)
    set(links ${CMAKE_BINARY_DIR}/cuda-libraries)
    file(MAKE_DIRECTORY ${links})
    foreach (library ${versioned})
        get_filename_component(name ${library} NAME)
        string(REGEX REPLACE "\\.so\\..*" ".so" name ${name})
        file(CREATE_LINK ${library} ${links}/${name} SYMBOLIC)
    endforeach()
    list(APPEND CMAKE_LIBRARY_PATH ${links} ${CUDAToolkit_ROOT}/lib)
    set(CMAKE_CUDA_FLAGS_INIT "-L${CUDAToolkit_ROOT}/lib")
    list(APPEND CMAKE_BUILD_RPATH ${CUDAToolkit_ROOT}/lib)
endif()

# ggml grows its pool through the driver where it can link the driver's library, of which toolkits carry a stub.
find_library(UB_CUDA_DRIVER cuda HINTS ${CUDAToolkit_ROOT} PATH_SUFFIXES lib64/stubs lib/stubs targets/x86_64-linux/lib/stubs)
if (UB_CUDA_DRIVER)
    set(GGML_CUDA_NO_VMM OFF)
else()
    set(GGML_CUDA_NO_VMM ON)
    message(STATUS "no libcuda to link: ggml-cuda is built without virtual memory pools")
endif()

# A machine without a GPU builds for the common ones: Turing and Ampere as PTX, consumer Ampere, Ada and Hopper as machine code.
if (NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    if (UB_NATIVE AND EXISTS /dev/nvidia0)
        set(CMAKE_CUDA_ARCHITECTURES native)
    else()
        set(CMAKE_CUDA_ARCHITECTURES 75-virtual 80-virtual 86-real 89-real 90-real)
    endif()
endif()
