# Debian builds xsimd with its optional xtl support, yet ships xsimd without xtl: the exported target then asks the
# linker for -lxtl, a library that exists nowhere (xtl is header-only, and mla uses nothing of it).
if(TARGET xsimd AND NOT TARGET xtl)
    get_target_property(mla_xsimd_links xsimd INTERFACE_LINK_LIBRARIES)
    if("xtl" IN_LIST mla_xsimd_links)
        list(REMOVE_ITEM mla_xsimd_links xtl)
        set_target_properties(xsimd PROPERTIES INTERFACE_LINK_LIBRARIES "${mla_xsimd_links}")
    endif()
    unset(mla_xsimd_links)
endif()
