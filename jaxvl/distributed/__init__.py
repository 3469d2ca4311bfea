# SPDX-License-Identifier: Apache-2.0
"""The mesh of devices, several processes as one run, and signals that stop it."""
