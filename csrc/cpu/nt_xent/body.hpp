// NT-Xent for one target. Included once for each, so without a guard.

#include "cpu/vector/lanes.hpp"
#include "cpu/vector/products.hpp"
#include "cpu/vector/factors.hpp"
#include "cpu/vector/exponentials.hpp"
#include "cpu/nt_xent/factors.hpp"
#include "cpu/nt_xent/blocks.hpp"
#include "cpu/nt_xent/run.hpp"
