// Profile fits for one target. Included once for each, so without a guard.

#include "cpu/vector/lanes.hpp"
#include "cpu/vector/exponentials.hpp"
#include "cpu/profile_fit/render.hpp"
#include "cpu/profile_fit/fit.hpp"
