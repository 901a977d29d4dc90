# Puts our numbered patches on source files of the pinned module, which itself is never changed: each file that a patch
# names is copied to the build folder, patched there, and takes the place of the original in the target that compiles it.
# Patches name files relative to the folder given here, and change .c and .cpp files only.

find_program(PATCH patch)

# ub_patch(TARGET FOLDER PATCH...)
function(ub_patch target folder)
    get_target_property(sources ${target} SOURCES)
    set(copies ${CMAKE_BINARY_DIR}/third_party/patched/${target})
    file(REMOVE_RECURSE ${copies}.new)
    foreach (patch IN LISTS ARGN)
        set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${patch})
        file(STRINGS ${patch} names REGEX "^--- a/")
        foreach (name IN LISTS names)
            string(REGEX REPLACE "^--- a/([^\t]*).*" "\\1" name "${name}")
            if (NOT name IN_LIST sources AND NOT "${folder}/${name}" IN_LIST sources)
                message(FATAL_ERROR "${patch} changes ${name}, which ${target} does not compile")
            endif()
            if (NOT EXISTS ${copies}.new/${name})
                configure_file(${folder}/${name} ${copies}.new/${name} COPYONLY)
            endif()
            list(APPEND patched ${name})
        endforeach()
        if (NOT PATCH)
            message(FATAL_ERROR "patch is needed (Debian: apt-get install patch)")
        endif()
        execute_process(COMMAND ${PATCH} -p1 --forward --quiet --fuzz=0 -i ${patch} WORKING_DIRECTORY ${copies}.new
                        RESULT_VARIABLE failed OUTPUT_VARIABLE said ERROR_VARIABLE said)
        if (failed)
            message(FATAL_ERROR "${patch} does not apply to the pinned module: ${said}")
        endif()
    endforeach()
    list(REMOVE_DUPLICATES patched)
    foreach (name IN LISTS patched)
        configure_file(${copies}.new/${name} ${copies}/${name} COPYONLY)  # keeps the time stamp of an unchanged file
        list(REMOVE_ITEM sources ${name} ${folder}/${name})
        list(APPEND sources ${copies}/${name})
        get_filename_component(beside ${folder}/${name} DIRECTORY)
        target_include_directories(${target} PRIVATE ${folder} ${beside})  # for #include "..."
    endforeach()
    file(REMOVE_RECURSE ${copies}.new)
    set_target_properties(${target} PROPERTIES SOURCES "${sources}")
endfunction()
