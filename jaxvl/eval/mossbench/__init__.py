# SPDX-License-Identifier: Apache-2.0
"""What MOSSBench alone needs: refusals, stages, its forms and the trade-off."""
