-- Send every CT series that has become stable (no new instance for StableAge seconds) to the node.
-- Results that the node stores here have other modalities (SEG, SR ...) and are never sent: no loop.

local NODE = 'DICOMNODE' -- its name in DicomModalities
local ROUTED = { CT = true }

function OnStableSeries(seriesId, tags, metadata)
  if not ROUTED[tags['Modality']] then
    return
  end
  -- A series that came from the node itself is not sent back to it.
  if metadata['RemoteAET'] == NODE then
    return
  end
  local job = '{"Resources": ["' .. seriesId .. '"], "Asynchronous": true, "Permissive": false, "Timeout": 60}'
  RestApiPost('/modalities/' .. NODE .. '/store', job)
end
