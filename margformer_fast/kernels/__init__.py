"""Kernels: what computes, without autograd and without a choice of backend."""
