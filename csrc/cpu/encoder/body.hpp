// The encoder for one target. Included once for each, so without a guard.

#include "cpu/vector/lanes.hpp"
#include "cpu/vector/products.hpp"
#include "cpu/vector/factors.hpp"
#include "cpu/vector/exponentials.hpp"
#include "cpu/vector/keep.hpp"
#include "cpu/encoder/norm.hpp"
#include "cpu/encoder/feed_forward.hpp"
#include "cpu/encoder/attention.hpp"
#include "cpu/encoder/layer.hpp"
