# Brings SHARED and ARCHIVE to ROOT/build/lib. Run with cmake -P.
set(lib ${ROOT}/build/lib)
file(MAKE_DIRECTORY ${lib})
foreach (file ${SHARED} ${ARCHIVE})
    file(COPY_FILE ${file} ${lib}/new)
    get_filename_component(name ${file} NAME)
    execute_process(COMMAND ${CMAKE_COMMAND} -E compare_files ${lib}/new ${lib}/${name} RESULT_VARIABLE differs OUTPUT_QUIET ERROR_QUIET)
    if (differs)
        # Renaming leaves programs alone that have the old file mapped.
        file(RENAME ${lib}/new ${lib}/${name})
    else()
        file(REMOVE ${lib}/new)
    endif()
endforeach()

# What a static link needs besides libstdc++ and libm: build.sh hands it to cgo.
file(WRITE ${lib}/ldflags "${LDFLAGS}")

# Go does not see that an archive named in LDFLAGS changed. It links again when what it compiled changed, so the sum goes into an object.
file(SHA256 ${ARCHIVE} sum)
set(stamp "#define UB_NATIVE_STAMP \"${sum}\"\n")
set(file ${ROOT}/bindings/native_stamp.h)
set(old "")
if (EXISTS ${file})
    file(READ ${file} old)
endif()
if (NOT old STREQUAL stamp)
    file(WRITE ${file} ${stamp})
endif()
