// What the compiled files share: each is compiled once for each instruction set, with ADVECT_SET naming its functions.

#pragma once

#if defined(__GNUC__) && defined(__AVX2__)
#include <immintrin.h>
#endif

#ifndef ADVECT_SET
#define ADVECT_SET plain
#endif
#define ADVECT_JOIN(name, set) name##_##set
#define ADVECT_NAME(name, set) ADVECT_JOIN(name, set)
#if defined(_WIN32)
#define ADVECT_PUBLIC(name) extern "C" __declspec(dllexport) int ADVECT_NAME(name, ADVECT_SET)
#else
#define ADVECT_PUBLIC(name) extern "C" __attribute__((visibility("default"))) int ADVECT_NAME(name, ADVECT_SET)
#endif
