# SPDX-License-Identifier: Apache-2.0
"""Who replies to a benchmark: a local model, a server, or a file of recorded replies."""
