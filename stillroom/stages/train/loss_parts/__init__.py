"""What several losses share: masks and means, cosines, patches, grids, small networks."""
