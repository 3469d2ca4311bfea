# SPDX-License-Identifier: Apache-2.0
"""What a reply is worth."""
