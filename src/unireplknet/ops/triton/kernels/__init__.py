"""The Triton kernels. Importing them imports Triton."""
