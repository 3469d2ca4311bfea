# SPDX-License-Identifier: Apache-2.0
"""The form of a prepared set: a tensorflow-datasets builder, in a package of its own because
tensorflow-datasets looks for a builder's metadata beside its module. tensorflow is not needed."""
