// Config: what a compiler has to be told about copse's public names.
#pragma once

#include <stddef.h>
#include <stdint.h>

#define COPSE_API __attribute__((visibility("default")))

#define COPSE_VERSION_MAJOR 0
#define COPSE_VERSION_MINOR 1
#define COPSE_VERSION_PATCH 0
